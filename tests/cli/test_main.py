"""The command's frame: cheap help, verbs by name, errors without traceback, exit codes."""

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from cli.command import SRC, openzaya

from openzaya.cli import main as cli
from openzaya.core.errors import CheckpointError, ConfigError, TrainingStopped, UpstreamError
from openzaya.core.native.build import cache_folder

CLI = SRC / "openzaya" / "cli"
HELP_CPU_S = 0.3
PATHS = "check the path, who may use it, and the space on its disk\n"
HEAVY = {"torch", "numpy", "rich", "transformers", "aiohttp", "asyncio", "jinja2", "tokenizers"}


def constants(path: Path) -> dict[str, object]:
    """Return the module-level string and bool constants of a file without importing it."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found[node.targets[0].id] = node.value.value
    return found


def test_help_costs_little_and_loads_nothing_heavy():
    """Best of three, because a loaded machine charges cache misses to us."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = openzaya("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert "usage: openzaya" in done.stdout
    assert min(costs) < HELP_CPU_S, costs
    code = "import sys; from openzaya.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert modules & HEAVY == set()
    assert "openzaya.cli.main" in modules


def test_the_table_of_verbs_says_what_the_modules_say():
    summaries = {
        found["NAME"]: found["SUMMARY"]
        for path in sorted(CLI.glob("*.py"))
        if "NAME" in (found := constants(path))
    }
    assert summaries == cli.VERBS


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_explains_itself_with_an_example_and_few_flags(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"openzaya {verb}" in shown.partition("example")[2]
    assert "--debug" in shown
    parser = cli.build_parser(cli.load_verb(verb))
    flags = [action for action in parser._actions if action.option_strings]
    common = {"--help", "--debug", "--json", "--set", "--out"}
    assert len([f for f in flags if not common & set(f.option_strings)]) <= 8


@pytest.mark.parametrize("verb", cli.VERBS)
def test_importing_a_verb_or_asking_for_its_help_loads_no_torch(verb):
    code = f"import sys; from openzaya.cli.main import main; main(['{verb}', '--help']); " + (
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docter"], "'docter' is not a verb; did you mean 'doctor'?"),
        (["xyzzy"], "choose one of: demo, speedrun"),
    ],
)
def test_a_wrong_verb_gets_a_suggestion_and_code_2(words, message, capsys):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("openzaya: error: ")
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("words", [["runs"], ["runs", "show"], ["convert"]])
def test_help_may_come_first(words, capsys):
    assert cli.main(["help", *words]) == 0
    assert capsys.readouterr().out.startswith(f"usage: openzaya {' '.join(words)} ")


def fake_verb(run, **names) -> ModuleType:
    module = ModuleType("openzaya.cli.fake")
    module.NAME, module.SUMMARY, module.run = "fake", "A verb for tests.", run
    module.configure = lambda parser: parser.add_argument("--size", type=int, default=1)
    for name, value in names.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def install(monkeypatch):
    def install(run, **names):
        monkeypatch.setitem(cli.VERBS, "fake", "A verb for tests.")
        monkeypatch.setitem(sys.modules, "openzaya.cli.fake", fake_verb(run, **names))

    return install


def raising(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("size is 3"), 2, "openzaya: error: size is 3\n"),
        (CheckpointError("torn"), 3, "openzaya: error: torn\n"),
        (UpstreamError("lied"), 4, "openzaya: error: lied\n"),
        (KeyboardInterrupt(), 130, "openzaya: stopped by Ctrl-C\n"),
        (FileExistsError(17, "File exists", "out"), 2, "[Errno 17] File exists: 'out'; " + PATHS),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device; " + PATHS),
        (
            ModuleNotFoundError("no", name="starlette"),
            1,
            "openzaya: error: this needs the package 'starlette'; "
            "install it with: pip install 'openzaya[serve]'\n",
        ),
    ],
)
def test_errors_are_one_line_with_their_exit_code(install, capsys, error, code, message):
    install(raising(error))
    assert cli.main(["fake"]) == code
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.parametrize("words", [["--debug", "fake"], ["fake", "--debug"]])
def test_debug_shows_the_traceback(install, capsys, words):
    install(raising(ConfigError("size is 3")))
    assert cli.main(words) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("openzaya: error: size is 3\n")


def test_debug_may_follow_a_subcommand(capsys):
    assert cli.main(["runs", "show", "nope", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "no run 'nope'" in shown


def test_a_bug_of_ours_keeps_its_traceback(install):
    install(raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_flags_reach_the_verb_and_json_only_where_it_is_offered(install, capsys):
    install(lambda args: args.size)
    assert cli.main(["fake", "--size", "7"]) == 7
    assert cli.main(["fake", "--json"]) == 2
    assert cli.main(["fake", "--siz", "7"]) == 2
    install(lambda args: 5 if args.json else 6, JSON=True)
    assert cli.main(["fake", "--json"]) == 5
    assert cli.main(["fake"]) == 6


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["solve", "x", "--modl", "nano"], "--model"),
        (["solve", "x", "--sede=1"], "--seed"),
        (["data", "prepare", "o", "s", "--tokenizer", "nano", "--los", "all"], "--loss"),
    ],
)
def test_a_wrong_flag_gets_a_suggestion_and_code_2(words, flag, capsys):
    assert cli.main(words) == 2
    assert f"; did you mean {flag}?\n" in capsys.readouterr().err
    assert cli.main(["solve", "x", "--xyzzy"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["train", "sft", "--model", "nano", "--data", "d"], ["speedrun"]]
)
def test_threads_are_a_number_from_1(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--threads", "-1"]) == 2
    assert "--threads is -1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_verb_whose_file_is_missing_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(cli.VERBS, "ghost", "Not there.")
    assert cli.main(["ghost"]) == 2
    assert "'ghost' is not part of this installation" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback():
    """`openzaya ... | head -1`, with the pipe closed before anything is written."""
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    env.pop("PYTHONUNBUFFERED", None)  # a buffer hides the closed pipe until it is flushed
    read, write = os.pipe()
    os.close(read)
    done = subprocess.Popen(
        [sys.executable, "-m", "openzaya", "--version"],
        env=env,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    _, error = done.communicate()
    assert error == b""
    assert done.returncode == cli.EXIT_BROKEN_PIPE


def test_version_and_empty_command_line():
    assert openzaya("--version").stdout.startswith("openzaya 0.")
    assert "verbs:" in openzaya().stdout


def test_an_end_that_was_asked_for_is_not_called_an_error(capsys):
    stopped = TrainingStopped("pretrain was stopped by SIGTERM")
    assert cli.fail(str(stopped), stopped.exit_code, debug=False) == 75
    assert capsys.readouterr().err == "openzaya: pretrain was stopped by SIGTERM\n"


def piped(words: list[str], redirect: str, **env: str) -> subprocess.CompletedProcess:
    """Run a command line of ours in a shell that redirects its streams."""
    command = f"{sys.executable} -m openzaya {' '.join(words)} {redirect}"
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC), **env}
    return subprocess.run(["bash", "-c", command], env=kept, capture_output=True, text=True)


@pytest.mark.parametrize("words", [["--version"], ["runs", "list"]])
def test_a_closed_stdout_is_no_traceback(words, tmp_path):
    done = piped(words, ">&-", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_of_a_drawn_table_may_leave(install, capsys):
    """Rich ends the process by itself then, with the exit code of an error."""

    def run(args):
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904 - as rich.console does

    install(run)
    assert cli.main(["fake"]) == cli.EXIT_BROKEN_PIPE
    assert capsys.readouterr().err == ""
    install(raising(SystemExit(3)))
    with pytest.raises(SystemExit):
        cli.main(["fake"])


def test_what_the_encoding_of_stdout_lacks_is_escaped():
    answer = "from openzaya.cli import main as cli; cli.help_text = lambda: 'caf\\xe9 \\u4e2d'; "
    answer += "cli.main([])"
    done = subprocess.run(
        [sys.executable, "-c", answer],
        env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("caf\\xe9 \\u4e2d\n", "")


@pytest.mark.parametrize("action", ["list", "show", "view", "resume", "export", "prune"])
def test_subcommands_of_runs_have_examples_and_take_whole_flags(action, capsys):
    assert cli.main(["runs", action, "--help"]) == 0
    assert "examples:" in capsys.readouterr().out
    assert cli.main(["runs", action, "--jour", "x"]) == 2
    assert "did you mean --journal?" in capsys.readouterr().err


def test_a_user_without_a_home_is_told_where_the_journal_may_be(monkeypatch, capsys):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert cli.main(["runs", "list"]) == 2
    assert "set HOME or XDG_STATE_HOME, or name a journal" in capsys.readouterr().err
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("OPENZAYA_CACHE", raising=False)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
