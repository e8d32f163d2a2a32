"""Programs that read what is not theirs, write where they may not, or bring out more than files."""

# ruff: noqa: E501 a program's line stays a line

from sandbox.hostile.case import Case

from openzaya.sandbox.executor import Limits, Status

CASES = [
    Case(
        name="writes everywhere",
        source=(
            "for name in ('/dev/x', '/usr/x', '/usr/lib/x', '/etc/x', '/x', '/proc/x', '/lib64/x',"
            " '/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger',"
            " '/proc/self/uid_map', '/proc/sys/user/max_user_namespaces'):\n"
            "    print(attempt(lambda: os.write(os.open(name, os.O_CREAT | os.O_WRONLY), b'9')))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="finds nothing of the machine",
        source=(
            "import os\nnames = ['/etc/passwd', '/etc/shadow', '/etc/hostname', '/root', '/home',"
            " '/sys', '/run', '/var', '/srv', '/opt', '/mnt', '/boot', '/usr/local', '/usr/share/doc',"
            " '/usr/bin/sh', '/bin', '/usr/bin/bwrap', '/oldroot', '/newroot', '/dev/tty', '/dev/kvm',"
            " '/dev/sda', '/dev/mem', '/dev/kmsg', '/dev/ptmx', '/dev/fuse', '/dev/net']\n"
            "print([name for name in names if os.path.lexists(name)])"
        ),
        prints=b"[]\n",
    ),
    Case(
        name="looks for installed packages",
        source=(
            "import glob\nfound = glob.glob('/usr/**/site-packages/*', recursive=True)\n"
            "found += glob.glob('/usr/**/dist-packages/*', recursive=True)\nprint(found)\n"
            "try: import numpy\nexcept ImportError: print('none')"
        ),
        prints=b"[]\nnone\n",
    ),
    Case(
        name="reads the kernel's memory",
        source=(
            "for name in ('/proc/kmsg', '/proc/kcore', '/dev/mem', '/dev/kmsg', '/proc/1/syscall'):\n"
            "    print(attempt(lambda: os.read(os.open(name, os.O_RDONLY), 1)))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="brings out a link to a secret",
        source="import os\nos.symlink('/etc/ld.so.cache', 'out')\nos.symlink('/proc/1/root', 'o2')",
        fetch=("out", "o2"),
    ),
    Case(
        name="brings out a FIFO",
        source="import os\nos.mkfifo('out')",
        fetch=("out",),
    ),
    Case(
        name="brings out a folder and a socket",
        source=(
            "import os, socket\nos.mkdir('out')\nopen('out/x', 'w').write('x')\n"
            "socket.socket(socket.AF_UNIX).bind('s')"
        ),
        fetch=("out", "s"),
    ),
    Case(
        name="brings out a hard link",
        source="import os\nopen('a', 'w').write('x')\nos.link('a', 'out')",
        fetch=("out",),
    ),
    Case(
        name="links to a file of the system",
        source=(
            "import sys\nprint(attempt(os.link, sys.executable, '/tmp/out'))\n"
            "print(attempt(os.rename, sys.executable, '/tmp/out2'))"
        ),
        tools=True,
        prints=b"EXDEV\nEXDEV\n",
        fetch=("out", "out2"),
    ),
    Case(
        name="brings out files as large as they may be",
        source=(
            "import os\nfor name in ('a', 'b'):\n    handle = os.open(name, os.O_CREAT | os.O_RDWR)\n"
            "    os.ftruncate(handle, 2**20 * (16 if name == 'a' else 1))"
        ),
        fetch=("a", "b"),
        fetched={"a": bytes(16 * 2**20), "b": bytes(2**20)},
    ),
    Case(
        name="brings out more holes than its folder has room",
        source="for name in 'abc':\n    open(name, 'wb').truncate(2**21)",
        fetch=("a", "b", "c"),
        fetched={"a": bytes(2**21), "b": bytes(2**21)},
        limits=Limits(cpu_s=5, wall_s=60, file_bytes=2**21, tmp_bytes=2**22),
    ),
    Case(
        name="makes devices",
        source=(
            "import stat\nprint(attempt(os.mknod, '/tmp/d', stat.S_IFBLK | 0o666, 0x0800))\n"
            "print(attempt(os.mknod, '/tmp/c', stat.S_IFCHR | 0o666, 0x0101))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="gives itself a set-uid program",
        source=(
            "import os, shutil, subprocess, sys\nshutil.copy(sys.executable, 'p')\n"
            "os.chmod('p', 0o6755)\n"
            "line = 'import os; print(os.getresuid(), os.getresgid())'\n"
            "print(subprocess.run(['./p', '-S', '-c', line], capture_output=True).stdout)"
        ),
        prints=b"b'(1000, 1000, 1000) (1000, 1000, 1000)\\n'\n",
    ),
    Case(
        name="mounts",
        source=(
            "s = ctypes.create_string_buffer\nroot, tmp, kind = s(b'/'), s(b'/tmp'), s(b'tmpfs')\n"
            "print(call(165, kind, tmp, kind, 0, 0), call(165, 0, root, 0, 32 | 4096, 0))\n"
            "print(call(166, tmp, 2), call(155, tmp, tmp), call(161, root))\n"
            "print(call(428, -100, root, 0), call(429, 3, root, 3, root, 0), call(430, kind, 0))\n"
            "print(call(442, 3, root, 0, 0, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="opens files by handle",
        source=(
            "b = ctypes.create_string_buffer(256)\nb[0] = 128\n"
            "print(call(303, -100, ctypes.create_string_buffer(b'/'), b, b, 0), call(304, 3, b, 0))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="locks a file that other boxes see",
        source=(
            "import fcntl, struct, sys\nhandle = os.open(sys.executable, os.O_RDONLY)\n"
            "print(attempt(fcntl.flock, handle, fcntl.LOCK_SH | fcntl.LOCK_NB))\n"
            "print(attempt(fcntl.lockf, handle, fcntl.LOCK_SH | fcntl.LOCK_NB))\n"
            "lock = struct.pack('hhqqi4x', 0, 0, 0, 0, 0)\n"
            "for command in (5, 6, 7, 36, 37, 38): print(attempt(fcntl.fcntl, handle, command, lock))\n"
            "print(attempt(fcntl.fcntl, handle, 1024, 0), attempt(fcntl.fcntl, handle, 1026, 1))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="watches files that other boxes use",
        source="print(call(253), call(294, 0), call(254, 3, 0, 1), call(300, 0, 0))",
        tools=True,
        refused=True,
    ),
    Case(
        name="paths that are no paths",
        source=(
            "print(attempt(os.open, b'/' + b'x' * 5000, 0), attempt(os.open, b'\\xff%n%s', 0))\n"
            "print(call(2, 0, 0, 0), call(2, 1, 0, 0))\n"
            "try: open('a\\0b')\nexcept ValueError: print('value')"
        ),
        tools=True,
        prints=b"ENAMETOOLONG ENOENT\nEFAULT EFAULT\nvalue\n",
    ),
    Case(
        name="folders in folders",
        source=(
            "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nprint('deep')"
        ),
        prints=b"deep\n",
        fetch=("d",),
    ),
    Case(
        name="marks shared files",
        source=(
            "import sys\nprint(attempt(os.setxattr, sys.executable, 'user.x', b'1'))\n"
            "print(attempt(os.utime, sys.executable), attempt(os.chmod, sys.executable, 0o777))\n"
            "print(attempt(os.truncate, sys.executable, 0), attempt(os.unlink, sys.executable))"
        ),
        tools=True,
        refused=True,
    ),
    Case(
        name="writes to its own source",
        source="open(__file__, 'w').write('print(666)')\nprint('changed')",
        prints=b"changed\n",
        ends=(Status.OK,),
    ),
]
