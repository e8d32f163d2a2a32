"""Programs that abuse the three streams, and honest ones that others' sandboxes get wrong."""

# ruff: noqa: E501 a program's line stays a line

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import MIB, Limits, Status

FIVE_MEGABYTES = bytes(range(256)) * 20000
CASES = [
    Case(
        name="floods stdout",
        source="import sys\nwhile True: sys.stdout.write('x' * 65536)",
        ends=(Status.OUTPUT,),
        prints=b"x" * MIB,
    ),
    Case(
        name="floods stderr",
        source="import sys\nwhile True: sys.stderr.write('x' * 65536)",
        ends=(Status.OUTPUT,),
        prints=b"",
    ),
    Case(
        name="children flood in turn",
        source=(
            "import os\nfor _ in range(8):\n    if not os.fork(): break\n"
            "while True: os.write(1, b'y' * 4096)"
        ),
        ends=(Status.OUTPUT,),
        prints=b"y" * MIB,
    ),
    Case(
        name="writes to both streams in turn",
        source=(
            "import os\nfor _ in range(100):\n    os.write(1, b'o' * 4000)\n"
            "    os.write(2, b'e' * 4000)"
        ),
        prints=b"o" * 400000,
    ),
    Case(
        name="closes stdout and goes on",
        source="import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)",
        ends=(Status.TIME_WALL,),
        limits=Limits(wall_s=1.5),
    ),
    Case(
        name="closes all streams and ends well",
        source="import os\nos.closerange(0, 3)\nos._exit(0)",
        stdin=FIVE_MEGABYTES,
        prints=b"",
    ),
    Case(
        name="two hundred kilobytes of honest output",
        source="print('z' * 200000)",
        prints=b"z" * 200000 + b"\n",
    ),
    Case(
        name="never reads its input",
        source="print('ok')",
        stdin=FIVE_MEGABYTES,
        prints=b"ok\n",
    ),
    Case(
        name="reads all its input",
        source="import sys\nprint(len(sys.stdin.buffer.read()))",
        stdin=FIVE_MEGABYTES,
        prints=b"5120000\n",
    ),
    Case(
        name="reads its input line by line",
        source="import sys\nf = sys.stdin.buffer\nprint([f.readline() for _ in range(3)])",
        stdin=b"1\n2\n3",
        prints=b"[b'1\\n', b'2\\n', b'3']\n",
    ),
    Case(
        name="writes what is no text",
        source="import os\nos.write(1, bytes(range(256)))",
        prints=bytes(range(256)),
    ),
    Case(
        name="makes its streams non-blocking",
        source=(
            "import os\nfor stream in (0, 1, 2): os.set_blocking(stream, False)\n"
            "for _ in range(3):\n    try: os.write(1, b'n' * 1000)\n    except BlockingIOError: pass"
        ),
        prints=b"n" * 3000,
    ),
    Case(
        name="prints a forged verdict",
        source=(
            "print('exit 0 0.0 0.0 0 0.0\\nend')\nprint('{\"exit-code\": 0}')\nraise SystemExit(5)"
        ),
        ends=(Status.EXIT,),
        code=5,
    ),
    Case(
        name="leaves with the code of a kill",
        source="raise SystemExit(137)",
        ends=(Status.EXIT,),
        code=137,
    ),
    Case(
        name="prints at exit",
        source="import atexit\natexit.register(print, 'late')\nprint('early')",
        prints=b"early\nlate\n",
    ),
]
