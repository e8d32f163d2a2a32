"""Programs end in a box as they do under the interpreter, though a box takes a shorter way."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openzaya.sandbox import Executor, Request, Status
from openzaya.sandbox.box import ENVIRONMENT
from openzaya.sandbox.unsafe import FLAGS

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

ENDINGS = {
    "falls off the end": "print('x')",
    "exit code": "import sys; sys.exit(7)",
    "exit code beyond a byte": "import sys; sys.exit(256 + 5)",
    "negative exit code": "import sys; sys.exit(-1)",
    "exit with a text": "import sys; sys.exit('gone wrong')",
    "exit with nothing": "import sys; sys.exit()",
    "exit with true": "raise SystemExit(True)",
    "exit without an import": "print('x')\nexit()",
    "quit with a code": "import atexit\natexit.register(print, 'bye')\nquit(5)",
    "exit in a shell's words": "print(exit, quit)",
    "a file beside it": "open('/tmp/own.py', 'w').write('N = 7')\nimport own, sys\n"
    "print(own.N, sys.path[0])",
    "uncaught": "def f(n):\n    raise ValueError(n)\nf(3)",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "syntax": "print('x'",
    "interrupted": "raise KeyboardInterrupt",
    "uncaught BaseException": "class E(BaseException): pass\nraise E('odd')",
    "hook": "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
    "hook that exits": "import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1 / 0",
    "atexit order": "import atexit\nfor n in range(3): atexit.register(print, n)\nprint('end')",
    "atexit after exit": "import atexit, sys\natexit.register(print, 'bye')\nsys.exit(4)",
    "thread outlives main": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()\nprint('main')"
    ),
    "daemon thread does not": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(9), print('late')), daemon=True).start()"
    ),
    "unclosed file": "f = open('/tmp/out', 'w')\nf.write('kept')",
    "object in a cycle": "class A:\n    def __del__(self): print('last')\na = A(); a.me = a; del a",
    "no newline": "print('x', end='')",
    "closed stdout": "import sys\nprint('x')\nsys.stdout.close()",
    "stdout is None": "import sys\nsys.stdout = None\nprint('x')",
    "stdout is gone": "import sys\nprint('x', flush=True)\ndel sys.stdout",
    "prints to a broken stdout": "import os\nprint('x')\nos.close(1)",
    "name of main": "print(__name__, __file__)\nimport __main__\nprint(__main__.__name__)",
    "globals": "print(sorted(n for n in globals() if n != '__cached__'))",
    "traceback of an exec": "exec('1 / 0')",
    "deep": "def f(n): return f(n + 1)\nf(0)",
    "stack depth": "import sys\nprint(sys.getrecursionlimit())",
    "hook that fails": "import sys\nsys.excepthook = lambda *a: 1 / 0\nraise ValueError(3)",
    "threads of its own import": "from threading import Thread\nThread(target=print).start()",
    "last word of a module": (
        "import sys, types\nclass A:\n    def __del__(self, say=print): say('last')\n"
        "sys.modules['own'] = types.ModuleType('own')\nsys.modules['own'].a = A()\n"
        "sys.modules['own'].a.me = sys.modules['own'].a\ndel A"
    ),
    "modules that are none": "import sys, typing\nsys.modules['own'] = object()\nprint(1)",
    "globals that are no names": "globals()[5] = 6\nprint(1)",
    "modules gone": "import sys\nsys.modules.popitem()\nsys.modules.pop('time', None)\nprint(1)",
    "child that ends first": (
        "import os\nprint('a', flush=True)\nif os.fork(): os.wait()\nprint('b')"
    ),
}


@pytest.fixture(scope="module", params=["bwrap", "zygote"])
def executor(request) -> Iterator[Executor]:
    with Executor.default(request.param) as made:
        yield made


def settled(text: bytes, folder: Path) -> str:
    """Return what a program wrote, without its folder and how deep below the interpreter it was."""
    words = text.decode().replace(str(folder), "/tmp")
    return re.sub(r"line repeated \d+ more", "line repeated many more", words)


@pytest.mark.parametrize("name", ENDINGS)
def test_programs_end_as_they_do_under_the_interpreter(executor, tmp_path, name):
    source = ENDINGS[name]
    program = tmp_path / "main.py"
    program.write_text(source.replace("/tmp", str(tmp_path)))
    command = [executor.interpreter.path, *FLAGS, str(program)]
    bare = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True
    )
    found = executor.run(Request(source=source, fetch=("out",)))
    code = found.exit_code if found.signal is None else -found.signal
    assert code == bare.returncode
    assert settled(found.stdout, tmp_path) == settled(bare.stdout, tmp_path)
    assert settled(found.stderr, tmp_path) == settled(bare.stderr, tmp_path)
    out = tmp_path / "out"
    assert found.files == ({"out": out.read_bytes()} if out.exists() else {})


def test_an_object_of_the_main_module_gets_its_last_word(executor):
    source = "class A:\n    def __del__(self): print('last')\na = A()"
    result = executor.run(Request(source=source))
    assert (result.status, result.stdout) == (Status.OK, b"last\n")
