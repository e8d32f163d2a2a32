"""Sources that attack the compiler, and compiled programs that attack the box."""

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import Limits, Status


def cpp(name: str, source: str, *ends: Status, signal: int | None = None, **limits: float) -> Case:
    """Return a C++ case."""
    return Case(
        name=name,
        source=source,
        language="cpp",
        ends=ends,
        signal=signal,
        limits=Limits(**{"cpu_s": 1, "wall_s": 60, **limits}),
        most_wall_s=100,
    )


COMPILE = Status.COMPILE
CASES = [
    cpp("includes the password file", '#include "/etc/passwd"\nint main() {}', COMPILE),
    cpp("includes its input", '#include "/dev/stdin"\nint main() {}', COMPILE),
    cpp("includes an endless device", '#include "/dev/zero"\nint main() {}', COMPILE),
    cpp("includes itself", "#include __FILE__\nint main() {}", COMPILE),
    cpp(
        "embeds a secret by the assembler",
        'asm(".incbin \\"/etc/shadow\\"");\nint main() {}',
        COMPILE,
    ),
    cpp("makes a program of four gigabytes", "char x[1LL << 32] = {1};\nint main() {}", COMPILE),
    cpp(
        "instantiates for ever",
        "template <int N> struct A { static const int v = A<N + 1>::v; };\n"
        "int main() { return A<0>::v; }",
        COMPILE,
    ),
    cpp("does not link", "int f();\nint main() { return f(); }", COMPILE),
    cpp("writes through null", "int main() { *(volatile int*)0 = 1; }", Status.SIGNAL, signal=11),
    cpp("aborts", "#include <cstdlib>\nint main() { abort(); }", Status.SIGNAL, signal=6),
    cpp("spins", "int main() { for (volatile int i = 0;; ++i); }", Status.TIME_CPU, cpu_s=0.3),
    cpp(
        "allocates for ever",
        "#include <cstdlib>\n#include <cstring>\n"
        "int main() { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }",
        Status.SIGNAL,
        Status.MEMORY,
        memory_bytes=128 * 2**20,
        cpu_s=5,
    ),
    cpp(
        "recurses for ever",
        "int f(int n) { volatile char b[100]; b[0] = n; return f(n + 1) + b[0]; }\n"
        "int main() { return f(0); }",
        Status.SIGNAL,
        Status.MEMORY,
        cpu_s=5,
    ),
    cpp(
        "returns a signal's number",
        "int main() { return 139; }",
        Status.EXIT,
    ),
]
