"""Programs that want to talk to somebody."""

# ruff: noqa: E501 a program's line stays a line

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import Status

CASES = [
    Case(
        name="keeps more in sockets than in memory",
        source=(
            "import socket as s\na, b = s.socketpair()\n"
            "for name in (s.SO_SNDBUF, s.SO_RCVBUF, 32, 33):  # the last two by force\n"
            "    print(attempt(a.setsockopt, s.SOL_SOCKET, name, 2**30))\n"
            "a.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1)\na.setblocking(False)\nkept = 0\n"
            "try:\n    while True: kept += a.send(bytes(2**16))\nexcept BlockingIOError: pass\n"
            "print('EPERM' if kept <= 2**18 else kept)"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="connects to the machine",
        source=(
            "import socket\nfor port in (22, 80, 631, 8000, 5432):\n"
            "    print(attempt(socket.create_connection, ('127.0.0.1', port), 1))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="connects to the world",
        source=(
            "import socket\nprint(attempt(socket.create_connection, ('192.0.2.1', 80), 1))\n"
            "print(attempt(socket.create_connection, ('2001:db8::1', 80), 1))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="asks for a name",
        source=(
            "import socket\ntry: socket.getaddrinfo('localhost.example.org', 80)\n"
            "except socket.gaierror: print('no answer')"
        ),
        prints=b"no answer\n",
    ),
    Case(
        name="datagram, raw and packet sockets",
        source=(
            "import socket as s\nprint(attempt(s.socket, s.AF_INET, s.SOCK_DGRAM))\n"
            "print(attempt(s.socket, s.AF_INET, s.SOCK_RAW, 1), attempt(s.socket, 17, 3, 3))\n"
            "print(attempt(s.socket, s.AF_INET6, s.SOCK_DGRAM))"
        ),
        tools=True,
        prints=b"EPERM\nEPERM EPERM\nEPERM\n",
    ),
    Case(
        name="every family but Unix's",
        source=(
            "print({call(41, family, kind, 0) for family in (*range(1), *range(2, 64), 2**32 - 1)"
            " for kind in (1, 2, 3, 5)})"
        ),
        tools=True,
        prints=b"{'EPERM'}\n",
    ),
    Case(
        name="pairs of other families",
        source=(
            "import array\npair = (ctypes.c_int * 2)()\n"
            "print({call(53, family, 1, 0, pair) for family in (0, *range(2, 64))})"
        ),
        tools=True,
        prints=b"{'EPERM'}\n",
    ),
    Case(
        name="the machine's abstract sockets",
        source=(
            "import socket\nlines = open('/proc/net/unix').read().splitlines()[1:]\nprint(len(lines))\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "print(attempt(s.connect, '\\0openzaya-hostile-listener'))"
        ),
        tools=True,
        prints=b"0\nECONNREFUSED\n",
    ),
    Case(
        name="talks to itself only",
        source=(
            "import socket\na, b = socket.socketpair()\na.sendall(b'hi')\nprint(b.recv(2))\n"
            "server = socket.socket(socket.AF_UNIX)\nserver.bind('s')\nserver.listen()\n"
            "client = socket.socket(socket.AF_UNIX)\nclient.connect('s')\nprint('self')"
        ),
        prints=b"b'hi'\nself\n",
        ends=(Status.OK,),
    ),
]
