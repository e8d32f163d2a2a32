"""Programs that multiply, hide, survive, or attack the process that watches them."""

# ruff: noqa: E501 a program's line stays a line

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import MIB, Limits, Status

SHORT = Limits(cpu_s=0.5, wall_s=60)
CASES = [
    Case(
        name="fork bomb",
        source="import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        ends=(Status.TIME_CPU,),
        limits=SHORT,
    ),
    Case(
        name="fork bomb in C++",
        source="#include <unistd.h>\nint main() { for (;;) fork(); }",
        language="cpp",
        ends=(Status.TIME_CPU,),
        limits=Limits(cpu_s=0.5, wall_s=60, processes=16),
    ),
    Case(
        name="daemon that keeps the pipes",
        source=(
            "import os, time\n"
            "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n"
            "    os._exit(0)\nprint('parent')"
        ),
        prints=b"parent\n",
    ),
    Case(
        name="daemon that closes all descriptors",
        source=(
            "import os, time\n"
            "if os.fork() == 0:\n    os.setsid()\n    os.closerange(0, 64)\n"
            "    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\nprint('parent')"
        ),
        prints=b"parent\n",
    ),
    Case(
        name="orphan that spins",
        source="import os\nif os.fork() == 0:\n    while True: pass\nprint('parent')",
        prints=b"parent\n",
    ),
    Case(
        name="two hundred short children",
        source=(
            "import os\nfor _ in range(200):\n    pid = os.fork()\n    if not pid: os._exit(0)\n"
            "    os.waitpid(pid, 0)\nprint('all')"
        ),
        prints=b"all\n",
    ),
    Case(
        name="three hundred zombies",
        source=(
            "import os\ncount = 0\ntry:\n    while count < 300:\n        if not os.fork():"
            " os._exit(0)\n        count += 1\nexcept OSError as error:\n"
            "    print(count < 16, error.errno)"
        ),
        prints=b"True 11\n",
    ),
    Case(
        name="sixty threads",
        source=(
            "import threading, time\nstarted = 0\ntry:\n    for _ in range(60):\n"
            "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
            "        started += 1\nexcept RuntimeError:\n    print(8 <= started < 16)"
        ),
        prints=b"True\n",
    ),
    Case(
        name="eight children that spin share one limit",
        source=("import os\nfor _ in range(8):\n    if not os.fork(): break\nwhile True: pass"),
        ends=(Status.TIME_CPU,),
        limits=Limits(cpu_s=0.8, wall_s=60),
    ),
    Case(
        name="kills everything",
        source="import os\nos.kill(-1, 9)\nprint('alone')",
        ends=(Status.OK, Status.EXIT),  # there may be nobody: ESRCH
    ),
    Case(
        name="sends every signal to the supervisor",
        source=(
            "import os\nfor number in range(1, 65):\n    for _ in range(3):\n"
            "        os.kill(os.getppid(), number)\nos._exit(5)"
        ),
        ends=(Status.EXIT,),
        code=5,
    ),
    Case(
        name="floods the supervisor with SIGCHLD",
        source="import os\nfor _ in range(20000): os.kill(1, 17)\nos._exit(6)",
        ends=(Status.EXIT,),
        code=6,
    ),
    Case(
        name="kills its group",
        source="import os\nos.killpg(0, 9)",
        ends=(Status.SIGNAL,),
        signal=9,
    ),
    Case(
        name="ignores every signal and spins",
        source=(
            "import signal\nfor number in range(1, 65):\n"
            "    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
            "while True: pass"
        ),
        ends=(Status.TIME_CPU,),
        limits=SHORT,
    ),
    Case(
        name="sleeps for ever",
        source="import time\nwhile True: time.sleep(1000)",
        ends=(Status.TIME_WALL,),
        limits=Limits(wall_s=1.5),
    ),
    Case(
        name="stops itself",
        source="import os\nos.kill(os.getpid(), 19)",
        ends=(Status.TIME_WALL,),
        limits=Limits(wall_s=1.5),
    ),
    Case(
        name="children that nobody collects spin one after another",
        source=(
            "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
            "    if not os.fork():\n        end = time.time() + 0.2\n"
            "        while time.time() < end: pass\n        os._exit(0)\n    time.sleep(0.15)"
        ),
        ends=(Status.TIME_CPU,),
        limits=Limits(cpu_s=0.5, wall_s=20),
    ),
    Case(
        name="short children that nobody collects starve one another",
        source=(
            "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
            "    try:\n        if not os.fork():\n            end = time.thread_time() + 0.002\n"
            "            while time.thread_time() < end: pass\n            os._exit(0)\n"
            "    except OSError: time.sleep(0.001)"
        ),
        ends=(Status.TIME_CPU, Status.TIME_WALL),  # their own doing, so never INFRA
        limits=Limits(cpu_s=0.5, wall_s=2),
    ),
    Case(
        name="takes the queued signals and timers of other boxes",
        source=(
            "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [40])\nsent = 0\n"
            "while sent < 1000 and not libc.sigqueue(os.getpid(), 40, 0): sent += 1\n"
            "timer = ctypes.c_void_p()\n"
            "print(sent, libc.timer_create(0, None, ctypes.byref(timer)))"
        ),
        tools=True,
        prints=b"256 -1\n",
    ),
    Case(
        name="becomes another program",
        source=(
            "import os, sys\n"
            "os.execv(sys.executable, [sys.executable, '-S', '-c', 'raise SystemExit(9)'])"
        ),
        ends=(Status.EXIT,),
        code=9,
    ),
    Case(
        name="raises its priority",
        source=(
            "print(attempt(os.nice, -10), attempt(os.setpriority, 0, 0, -5),"
            " attempt(os.setpriority, 0, 1, 19),"
            " attempt(os.sched_setscheduler, 0, 1, os.sched_param(10)),"
            " attempt(os.sched_setaffinity, 1, [0]))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="raises its limits",
        source=(
            "import resource as r\nfor name in ('NPROC', 'AS', 'FSIZE', 'CPU', 'NOFILE', 'STACK'):\n"
            "    pair = (ctypes.c_ulong * 2)(1 << 40, 1 << 40)\n"
            "    print(call(302, 0, getattr(r, 'RLIMIT_' + name), pair, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="lowers the limits of the supervisor",
        source=(
            "zero = (ctypes.c_ulong * 2)(0, 0)\nprint(call(302, 1, 0, zero, 0))\n"
            "print(call(302, 1, 7, zero, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="takes the supervisor apart",
        source=(
            "buffer = ctypes.create_string_buffer(64)\nvector = (ctypes.c_ulong * 2)"
            "(ctypes.addressof(buffer), 64)\n"
            "print(call(101, 16, 1, 0, 0), call(101, 0x4206, 1, 0, 0))\n"
            "print(call(310, 1, vector, 1, vector, 1, 0), call(311, 1, vector, 1, vector, 1, 0))\n"
            "print(call(434, 1, 0), call(438, 3, 4, 0), call(424, 3, 9, 0, 0), call(440, 3, 0, 0, 0))"
            "\nprint(call(312, 1, 1, 0, 0, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="looks into /proc/1",
        source=(
            "for name in ('environ', 'mem', 'maps', 'root', 'cwd', 'exe', 'auxv', 'io', 'stack'):\n"
            "    print(attempt(lambda: os.read(os.open('/proc/1/' + name, os.O_RDONLY), 1)))\n"
            "print(attempt(os.listdir, '/proc/1/fd'), attempt(os.listdir, '/proc/1/root'))\n"
            "print(attempt(os.readlink, '/proc/1/cwd'))\n"
            "for name in ('oom_score_adj', 'mem', 'timerslack_ns', 'coredump_filter'):\n"
            "    print(attempt(lambda: os.write(os.open('/proc/1/' + name, os.O_WRONLY), b'9')))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="counts its descriptors",
        source=(
            "import os\nfound = [f for f in range(64) if os.path.exists(f'/proc/self/fd/{f}')]\n"
            "print(found)"
        ),
        prints=b"[0, 1, 2]\n",
    ),
    Case(
        name="writes a report to every descriptor",
        source=(
            "import os\nfor handle in range(64):\n    try: os.write(handle, "
            "b'exit 0 0.1 0.1 1 0.0\\nend\\n')\n    except OSError: pass\nos._exit(3)"
        ),
        ends=(Status.EXIT,),
        code=3,
    ),
    Case(
        name="rewrites the supervisor that it finds in its own memory",
        source=(
            "import gc, os, sys, types\n"
            "frame = sys._getframe()\nwhile frame.f_back: frame = frame.f_back\n"
            "for found in [*gc.get_objects(), *frame.f_globals.values()]:\n"
            "    if isinstance(found, types.FunctionType) and '<super' in found.__code__.co_filename:"
            "\n        found.__code__ = (lambda *a: 0).__code__\n"
            "os.waitpid = lambda *a: (0, 0)\nos._exit(4)"
        ),
        ends=(Status.EXIT,),
        code=4,
    ),
    Case(
        name="hides its memory behind a closed /proc entry",
        source=(
            "libc.prctl(4, 0, 0, 0, 0)\nfor _ in range(3):\n    if not os.fork(): break\n"
            "libc.prctl(4, 0, 0, 0, 0)\nkept = bytearray(40 * 2**20)\ntime.sleep(50)"
        ),
        tools=True,
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=100 * MIB, wall_s=60),
    ),
]
