"""Programs that want all the memory: in objects, mappings, files, or in many processes."""

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import MIB, Limits, Status

HOLD = "\ntime.sleep(50)"
SEND = """
import socket, time
def fill(send):
    try:
        while True: send(bytes(200000))
    except BlockingIOError: pass
"""
CASES = [
    Case(
        name="four gigabytes at once",
        source="kept = bytes(4 * 2**30)",
        ends=(Status.EXIT, Status.MEMORY),
        most_wall_s=10,
    ),
    Case(
        name="a megabyte at a time",
        source="kept = []\nwhile True: kept.append(bytearray(2**20))",
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=128 * MIB),
    ),
    Case(
        name="sixteen gigabytes of address space",
        source="import mmap\nprint(attempt(mmap.mmap, -1, 16 * 2**30, mmap.MAP_PRIVATE))",
        tools=True,
        prints=b"ENOMEM\n",
    ),
    Case(
        name="twelve children of forty megabytes",
        source=(
            "import os, time\nfor _ in range(12):\n    if not os.fork(): break\n"
            "kept = bytearray(40 * 2**20)" + HOLD
        ),
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=192 * MIB, wall_s=60),
    ),
    Case(
        name="mappings in many children",
        source=(
            "import mmap, os, time\nfor _ in range(8):\n    if not os.fork(): break\n"
            "kept = mmap.mmap(-1, 40 * 2**20, mmap.MAP_PRIVATE)\nkept.write(bytes(40 * 2**20))"
            + HOLD
        ),
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=128 * MIB, wall_s=60),
    ),
    Case(
        name="shared mappings, which keep what no process sees any more",
        source=(
            "import mmap\nprint(attempt(mmap.mmap, -1, 2**20))\n"
            "print(attempt(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 2**20)))\n"
            "print(attempt(mmap.mmap, -1, 2**21, mmap.MAP_PRIVATE | 0x40000))"  # a huge page
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="memory put out to swap",
        source=(
            "import mmap\nkept = mmap.mmap(-1, 2**20, mmap.MAP_PRIVATE)\n"
            "print(*[attempt(kept.madvise, how) for how in (12, 20, 21)])"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="memory that is no process's",
        source=(
            "name = ctypes.create_string_buffer(b'x')\nprint(call(319, name, 0), call(447, 0))\n"
            "print(call(29, 0, 2**30, 0o1600), call(64, 0, 9, 0o1600), call(68, 0, 0o1600))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="locks its memory",
        source="print(call(149, 0, 4096), call(151, 3), call(325, 0, 4096, 0))",
        tools=True,
        refused=True,
    ),
    Case(
        name="one huge file",
        source=(
            "out = open('/tmp/big', 'wb')\n"
            "print(attempt(lambda: [out.write(bytes(2**20)) for _ in range(100)]))\n"
            "out.detach().close()"
        ),
        tools=True,
        prints=b"EFBIG\n",
    ),
    Case(
        name="many big files",
        source=(
            "def fill():\n    for name in range(100):\n"
            "        handle = os.open(f'/tmp/{name}', os.O_CREAT | os.O_WRONLY)\n"
            "        os.write(handle, bytes(4 * 2**20))\n        os.close(handle)\n"
            "print(attempt(fill))"
        ),
        tools=True,
        prints=b"ENOSPC\n",
        limits=Limits(tmp_bytes=16 * MIB),
    ),
    Case(
        name="shared memory files",
        source=(
            "def fill():\n    for name in range(100):\n"
            "        handle = os.open(f'/dev/shm/{name}', os.O_CREAT | os.O_WRONLY)\n"
            "        os.write(handle, bytes(4 * 2**20))\n        os.close(handle)\n"
            "print(attempt(fill))"
        ),
        tools=True,
        prints=b"ENOSPC\n",
        limits=Limits(tmp_bytes=16 * MIB),
    ),
    Case(
        name="a file with a large hole",
        source=(
            "handle = os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)\n"
            "print(attempt(os.ftruncate, handle, 2**40), attempt(os.pwrite, handle, b'x', 2**40))\n"
            "print(attempt(os.posix_fallocate, handle, 0, 2**40))"
        ),
        tools=True,
        prints=b"EFBIG EFBIG\nEFBIG\n",
    ),
    Case(
        name="two hundred thousand empty files",
        source="for name in range(200000): open(f'/tmp/{name}', 'w').close()",
        ends=(Status.MEMORY, Status.EXIT, Status.TIME_CPU),
        limits=Limits(cpu_s=5, wall_s=60),
    ),
    Case(
        name="full pipes",
        source=(
            "def fill():\n    while True:\n        _, end = os.pipe()\n"
            "        os.set_blocking(end, False)\n        attempt(os.write, end, bytes(2**20))\n"
            "print(attempt(fill))"
        ),
        tools=True,
        prints=b"EMFILE\n",
    ),
    Case(
        name="connections that nobody accepts",
        source=SEND
        + (
            "server = socket.socket(socket.AF_UNIX)\nserver.bind('s')\nserver.listen(4000)\n"
            "for _ in range(2000):\n"
            "    client = socket.socket(socket.AF_UNIX)\n    client.setblocking(False)\n"
            "    client.connect('s')\n    fill(client.send)\n    client.close()"
        )
        + HOLD,
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=128 * MIB, wall_s=60),
    ),
    Case(
        name="datagrams that nobody reads",
        source=SEND
        + (
            "kept = []\nfor n in range(60):\n"
            "    kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))\n"
            "    kept[-1].bind(str(n))\n"
            "    for _ in range(11):\n"
            "        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "        client.setblocking(False)\n        client.connect(str(n))\n"
            "        fill(client.send)\n        client.close()"
        )
        + HOLD,
        ends=(Status.MEMORY,),
        limits=Limits(memory_bytes=128 * MIB, wall_s=60),
    ),
    Case(
        name="integers that never end",
        source="x = 9**9**9",
        ends=(Status.TIME_CPU, Status.MEMORY),
        limits=Limits(cpu_s=0.5, wall_s=60),
    ),
    Case(
        name="recursion without a limit",
        source="import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        ends=(Status.SIGNAL, Status.MEMORY, Status.EXIT, Status.TIME_CPU),
        limits=Limits(cpu_s=2, wall_s=60, memory_bytes=256 * MIB),
    ),
]
