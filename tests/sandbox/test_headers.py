"""The precompiled header makes compiling cheaper, changes nothing else, and trusts nobody."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from openzaya.sandbox import Executor, Request, Status
from openzaya.sandbox.headers import HEADER, Headers, is_ours
from openzaya.sandbox.languages import LANGUAGES

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
    pytest.mark.skipif(not Path("/usr/bin/g++").exists(), reason="g++ is not installed"),
]
FLAGS = LANGUAGES["cpp"].compiler
PROGRAM = """#include <bits/stdc++.h>
int main() { std::map<std::string, int> m; m["a"] = NUMBER; std::cout << m["a"] << "\\n"; }
"""


def wait_for(headers: Headers) -> str:
    """Return the folder of headers once it has been made."""
    deadline = time.monotonic() + 120
    while (folder := headers.folder()) is None:
        assert time.monotonic() < deadline, "the header was not made"
        time.sleep(0.05)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Return a folder with the header, which the user of boxes can enter."""
    folder = Path("/var/tmp" if os.geteuid() == 0 else tmp_path_factory.getbasetemp())
    cache = folder / f"openzaya-headers-{os.getpid()}"
    cache.mkdir(mode=0o755)
    yield cache
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def made(cache) -> Path:
    return Path(wait_for(Headers(FLAGS, cache)))


@pytest.fixture
def executor(cache, monkeypatch):
    monkeypatch.setenv("OPENZAYA_CACHE", str(cache))
    with Executor.default("bwrap") as made:
        yield made


def test_programs_are_compiled_with_the_header_that_is_there(executor, cache, monkeypatch):
    """The one here is not the compiler's own: it says who it is."""
    other = cache / "other" / HEADER
    other.parent.mkdir(parents=True)
    other.write_text('#include <cstdio>\n#define WHO "mine"\n')
    command = [*FLAGS, "-x", "c++-header", "-o", f"{other}.gch", str(other)]
    subprocess.run(command, check=True)
    other.unlink()
    monkeypatch.setattr(Headers, "folder", lambda self: str(cache / "other"))
    source = "#include <bits/stdc++.h>\nint main() { puts(WHO); }"
    assert executor.run(Request(source=source, language="cpp")).stdout == b"mine\n"


def test_a_box_sees_the_header_and_cannot_write_it(executor, made):
    source = '#include <bits/stdc++.h>\n#include "/headers/bits/stdc++.h.gch"\nint main() {}'
    result = executor.run(Request(source=source, language="cpp"))
    assert result.status is Status.COMPILE
    command = executor.command(1024, compiler=True, folder=str(made))
    place = command.index("/headers")
    assert command[place - 2 : place] == ("--ro-bind", str(made))
    assert not executor.command(1024, compiler=True).count("/headers")


def test_programs_that_do_not_name_the_header_start_nothing(cache, executor):
    source = '#include <cstdio>\nint main() { puts("x"); }'
    assert executor.run(Request(source=source, language="cpp")).stdout == b"x\n"
    assert executor.headers == {}


def test_errors_read_as_they_do_without_the_header(executor, made, monkeypatch):
    request = Request(source="#include <bits/stdc++.h>\nint main() { return x; }", language="cpp")
    found = executor.run(request)
    executor.compiler.built.clear()
    monkeypatch.setattr(executor, "header_folder", lambda request: None)
    expected = executor.run(request)
    assert found.status is expected.status is Status.COMPILE
    assert found.stderr == expected.stderr


def test_a_header_that_does_not_fit_is_left_out(executor, made, cache, monkeypatch):
    """One of other flags or cut in the middle is not used; the program compiles all the same."""
    whole = (made / f"{HEADER}.gch").read_bytes()
    for number, content in enumerate((b"", b"gpch", whole[: len(whole) // 2])):
        folder = cache / f"broken-{number}"
        (folder / "bits").mkdir(parents=True)
        (folder / f"{HEADER}.gch").write_bytes(content)
        (folder / f"{HEADER}.gch").chmod(0o644)
        monkeypatch.setattr(executor, "header_folder", lambda request, to=folder: str(to))
        result = executor.run(
            Request(source=PROGRAM.replace("NUMBER", f"1{number}"), language="cpp")
        )
        assert (result.status, result.stdout) == (Status.OK, b"1%d\n" % number), result.stderr


def test_several_makers_at_once_leave_one_whole_header(tmp_path, cache):
    """What is under test is who wins and what is left, so the compiler only copies itself."""
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\nsleep 0.2\ncp "$0" "$5"\n')
    script.chmod(0o755)
    makers = [Headers((str(script), "-O2"), cache / "many") for _ in range(4)]
    folders = []
    threads = [threading.Thread(target=lambda m=m: folders.append(wait_for(m))) for m in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for maker in makers:
        maker.close()
    assert len(folders) == 4
    assert [str(path) for path in (cache / "many").iterdir()] == [folders[0]]
    assert [path.name for path in Path(folders[0], "bits").iterdir()] == ["stdc++.h.gch"]
    assert Path(folders[0], f"{HEADER}.gch").read_text() == script.read_text()


def test_closing_stops_the_maker_and_leaves_nothing(tmp_path, cache):
    script = tmp_path / "slow"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    headers = Headers((str(script),), cache / "closed")
    assert headers.folder() is None
    deadline = time.monotonic() + 30
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "exe")
    headers.close()
    while child.is_symlink() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.is_symlink()
    assert list((cache / "closed").iterdir()) == []
    assert headers.folder() is None


def test_a_compiler_that_fails_is_asked_once(tmp_path, cache):
    script = tmp_path / "failing"
    script.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\nexit 1\n")
    script.chmod(0o755)
    headers = Headers((str(script),), cache / "failed")
    deadline = time.monotonic() + 30
    while not headers.settled and time.monotonic() < deadline:
        assert headers.folder() is None
        time.sleep(0.05)
    assert headers.folder() is None
    assert (tmp_path / "log").read_text() == "asked\n"
    assert list((cache / "failed").iterdir()) == []


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir(mode=0o755)
    assert is_ours(folder)
    folder.chmod(0o775)
    assert not is_ours(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    assert not is_ours(tmp_path / "link")
    assert not is_ours(tmp_path / "absent")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's boxes run as somebody else")
def test_nothing_is_made_where_the_boxes_user_cannot_enter(tmp_path):
    """The folders above are pytest's own, closed to others."""
    headers = Headers(FLAGS, tmp_path / "cache")
    assert headers.folder() is None
    assert headers.settled
    assert list((tmp_path / "cache").iterdir()) == []
