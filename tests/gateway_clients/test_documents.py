"""What the documents tell people to type works as it is written: commands, curl, Python.

A gateway stands before two mocks, one of them under the name of the bundled model. Addresses and
ids in the documents are replaced by those of this test, nothing else.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import SRC, python, server_process

from openzaya.backends.mock.__main__ import build_parser as mock_parser
from openzaya.cli.main import build_parser, load_verb

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
DOCUMENTS = sorted([ROOT / "README.md", *GUIDES.glob("*.md")])
OURS = [ROOT / "README.md", *(GUIDES / f"{n}.md" for n in ("gateway", "test_time_compute", "runs"))]
"""Documents that speak of the gateway."""
GATEWAY = re.compile(r"(?:http://127\.0\.0\.1|(?:http://)?localhost):8000")
UPSTREAM = re.compile(r"http://(?:localhost|127\.0\.0\.1):(?:8000|9000|30000)")


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def commands(path: Path) -> list[str]:
    """Return the commands of the shell blocks: a word at the margin begins one."""
    found: list[str] = []
    for language, text in blocks(path):
        if language in ("", "sh", "bash"):
            told = re.sub(r" +# .*$", "", text, flags=re.M)
            found += re.findall(r"^\w.*(?:\n[ }].*)*", told, re.M)
    return found


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


def named(paths: list[Path], pattern: str) -> list:
    return [
        pytest.param(command, id=f"{path.stem}: {' '.join(command.split())[:60]}")
        for path in paths
        for command in commands(path)
        if re.match(pattern, command)
    ]


OPENZAYA = named(DOCUMENTS, "openzaya ")
MOCKS = named(DOCUMENTS, r"python -m openzaya\.backends\.mock ")
CURLS = named(OURS, "curl ")
RUN = named([ROOT / "README.md", GUIDES / "runs.md"], "openzaya (?:runs|solve -f) ")
PYTHON = [
    pytest.param(text, id=f"{path.stem}: {text.split()[1]}")
    for path in OURS
    for language, text in blocks(path)
    if language == "python" and GATEWAY.search(text)
]


def test_there_is_something_to_try():
    assert len(OPENZAYA) > 25
    assert len(MOCKS) > 2
    assert len(CURLS) > 8
    assert len(RUN) > 9
    assert len(PYTHON) > 3


@pytest.mark.parametrize("command", OPENZAYA)
def test_a_command_has_the_flags_that_a_document_gives_it(command):
    words = words_of(command)[1:]
    build_parser(load_verb(words[0])).parse_args(words[1:])


@pytest.mark.parametrize("command", MOCKS)
def test_the_mock_has_the_flags_that_a_document_gives_it(command):
    mock_parser().parse_args(words_of(command)[3:])


@pytest.fixture(scope="module")
def gateway(mock_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("documents")
    nano = ["openzaya.backends.mock", "--port", "0", "--set", "model=nano"]
    with server_process(python(*nano), folder / "nano.log") as nano_url:
        words = ["openzaya", "serve", "--upstream", mock_url, "--upstream", nano_url]
        words += ["--port", "0", "--set", f"journal={folder / 'runs.db'}", "--set", "drain_s=3"]
        with server_process(python(*words), folder / "gateway.log") as url:
            yield url


def at(text: str, url: str) -> str:
    """Return a text of the documents with the address of a server that runs."""
    assert GATEWAY.search(text)
    return GATEWAY.sub(url, text)


@pytest.mark.parametrize("command", CURLS)
def test_a_curl_command_works(gateway, command):
    live = at(command, gateway).replace("curl ", "curl --silent --show-error --fail ", 1)
    done = subprocess.run(["bash", "-c", live], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    if '"stream": true' in command:
        assert done.stdout.rstrip().endswith("data: [DONE]")
        assert "boxed{" in done.stdout
        return
    reply = json.loads(done.stdout)
    assert "error" not in reply
    if "/chat/completions" in command:
        assert "boxed{" in reply["choices"][0]["message"]["content"]
        assert ("ttc" in reply) == ("mrsa" in command or '"ttc"' in command)


@pytest.mark.parametrize("code", PYTHON)
def test_a_program_works(gateway, code):
    package = re.search(r"^(?:from|import) (\w+)", code)[1]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}: pip install {package}")
    # What this process can import, the program can too; LiteLLM shall not look for prices.
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-c", at(code, gateway)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"The answer is \\boxed\{\d+\}\.( \d+)?$", done.stdout), done.stdout


@pytest.fixture
def shell(mock_url: str, tmp_path: Path):
    """Run a command of the documents in a folder of its own; return what it prints."""
    problem = {"question": "How many? [key: 42]", "answer": "42"}
    (tmp_path / "problems.jsonl").write_text(f"{json.dumps(problem)}\n" * 3)
    env = {**os.environ, "PYTHONPATH": str(SRC), "XDG_STATE_HOME": str(tmp_path / "state")}
    env |= {"BROWSER": "true %s", "COLUMNS": "120"}

    def run(command: str, expects: int = 0) -> str:
        words = words_of(UPSTREAM.sub(mock_url, command))
        assert words[0] == "openzaya"
        done = subprocess.run(
            python("openzaya", *words[1:]),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == expects, done.stderr
        return done.stdout

    return run


def play(mock_url: str, *faults: str) -> None:
    """Let the mock fail from now on, or play soundly."""
    body = json.dumps({"faults": faults}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{mock_url}/faults", body, headers, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_over_recorded_runs_works(shell, mock_url, command):
    ask = "openzaya solve 'How many? [key: 42]' -n 4 --model http://127.0.0.1:8000"
    if "resume" in command:
        play(mock_url, "html")
        try:
            shell(ask, expects=4)
        finally:
            play(mock_url)
    else:
        shell(ask)
    newest = json.loads(shell("openzaya runs list --json"))[0]
    assert newest["state"] == ("failed" if "resume" in command else "done")
    told = shell(command.replace(" ID", f" {newest['id']}"))
    if "resume" in command:
        assert told == "42\n"
    elif "show" in command or "view" in command:
        assert newest["id"] in told or "--candidate" in command
        assert told.strip()
