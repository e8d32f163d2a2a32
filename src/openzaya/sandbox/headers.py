"""C++'s one big header, precompiled: reading it is most of what compiling a contest program costs.

It is made once for each compiler and set of flags, in the background and with the least priority,
from the compiler's own header alone; programs compile without it until it is there, and wherever
it does not fit. Boxes see it read-only.
"""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from openzaya.core.native import build

INSIDE = "/headers"
"""Where a compiler's box sees it."""
HEADER = "bits/stdc++.h"
SOURCE = "source.h"
MAKING = "making-"
STALE_S = 3600.0
"""A maker that was killed leaves its folder; after so long it is nobody's."""


class Headers:
    """The precompiled header of one compiler; safe to use from several threads and processes."""

    def __init__(self, compiler: tuple[str, ...], cache: Path | None = None) -> None:
        """`compiler` is the command with the flags that programs are compiled with."""
        self.compiler = compiler
        self.cache = cache or cache_folder()
        self.target = self.cache / f"headers-{fingerprint(compiler)}"
        self.lock = threading.Lock()
        self.maker: subprocess.Popen[bytes] | None = None
        self.making: Path | None = None
        self.settled = False
        """Whether it is there, or will not be."""

    def folder(self) -> str | None:
        """Return the folder to search for headers first, or None while there is none.

        The first call that finds none starts to make it.
        """
        with self.lock:
            if not self.settled:
                self.settled = is_ours(self.target) or not self.go_on()
            return str(self.target) if is_ours(self.target) else None

    def close(self) -> None:
        """Stop making it."""
        with self.lock:
            self.settled = True
            if self.maker is not None and self.maker.poll() is None:
                os.killpg(self.maker.pid, signal.SIGKILL)  # the compiler has children
            self.finish()

    def go_on(self) -> bool:
        """Start to make it, or take what has been made; return whether it is still being made."""
        try:
            if self.maker is None:
                self.start()
            elif self.maker.poll() is not None:
                self.finish()
        except OSError:
            return False
        return self.maker is not None

    def start(self) -> None:
        """Start the compiler on a folder that nobody else knows."""
        self.cache.mkdir(parents=True, exist_ok=True)
        for old in self.cache.glob(f"{MAKING}*"):
            if time.time() - old.stat().st_mtime > STALE_S:
                shutil.rmtree(old, ignore_errors=True)
        if not everybody_enters(self.cache):
            return
        self.making = Path(tempfile.mkdtemp(dir=self.cache, prefix=MAKING))
        made = self.making / f"{HEADER}.gch"
        made.parent.mkdir()
        source = self.making / SOURCE
        source.write_text(f"#include <{HEADER}>\n")
        self.maker = subprocess.Popen(
            ["nice", "-n", "19", *self.compiler, "-x", "c++-header", "-o", str(made), str(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Give a whole header its name; whoever is first wins, and they are all the same."""
        if self.maker is None or self.making is None:
            return
        if self.maker.wait() == 0:
            (self.making / SOURCE).unlink()
            for path in (self.making, *self.making.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            with suppress(OSError):
                self.making.rename(self.target)
        shutil.rmtree(self.making, ignore_errors=True)
        self.maker = self.making = None


def fingerprint(compiler: tuple[str, ...]) -> str:
    """Return a name for a compiler and its flags; an update of it changes the name."""
    found = Path(compiler[0]).resolve().stat()
    words = repr((compiler, found.st_size, found.st_mtime_ns))
    return sha256(words.encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return where headers are kept: OPENZAYA_CACHE, or the machine's or the user's cache folder.

    Root's boxes run as another user, who cannot enter root's own folder.
    """
    if os.geteuid() == 0 and not os.environ.get("OPENZAYA_CACHE"):
        return Path("/var/cache/openzaya")
    return build.cache_folder()


def everybody_enters(folder: Path) -> bool:
    """Say whether the user of boxes can come to a folder; without root that is us."""
    above = (folder, *folder.resolve().parents)
    return os.geteuid() != 0 or all(path.stat().st_mode & stat.S_IXOTH for path in above)


def is_ours(folder: Path) -> bool:
    """Say whether a folder is there and nobody but us can have changed it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not shared
