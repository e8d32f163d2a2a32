"""The sandbox server over real connections, with real boxes: answers, refusals, full queues."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from running_server import ask, listening

from openzaya.core.errors import SandboxError
from openzaya.sandbox import Executor, Limits, Request, Status
from openzaya.sandbox.http import HttpExecutor
from openzaya.sandbox.zygote import ZygoteExecutor
from openzaya.serve.config import ServeConfig
from openzaya.serve.keys import Key, Keys
from openzaya.serve.sandbox_app import SandboxService, create_sandbox_app

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


class Running:
    """A sandbox server that runs."""

    def __init__(self, port: int, service: SandboxService) -> None:
        self.port = port
        self.service = service
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path="/run_code", body=None, headers=None, method=None):
        """Return status, body and headers; bytes are sent as they are."""
        return ask(self.port, path, body, headers, method)

    def python(self, code, **fields):
        """Return the answer to a program that must be run."""
        status, answer, _ = self.ask(body={"language": "python", "code": code, **fields})
        assert status == 200, answer
        return answer


@contextmanager
def serving(
    config: ServeConfig | None = None,
    keys: Keys | None = None,
    slots: int = 2,
    executor: Executor | None = None,
) -> Iterator[Running]:
    """Run a server while the block runs."""
    config = replace(config or ServeConfig(), port=0)
    service = SandboxService(
        config=config,
        keys=keys or Keys(),
        executor=executor or Executor.default("zygote"),
        slots=slots,
    )
    with listening(create_sandbox_app(service), config) as port:
        yield Running(port, service)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


def refused(reply, status, code=None, param=None):
    found, body, _ = reply
    assert found == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in json.dumps(body)
    if code is not None:
        assert body["error"]["code"] == code, body
    if param is not None:
        assert body["error"]["param"] == param, body


def test_a_program_runs_and_the_answer_has_sandboxfusions_fields(server):
    answer = server.python("print(input()[::-1])", stdin="abc\u00e9\n", run_timeout=5)
    assert answer["status"] == "Success"
    assert answer["message"] == ""
    assert answer["compile_result"] is None
    run = answer["run_result"]
    assert set(run) == {"status", "execution_time", "return_code", "stdout", "stderr"}
    assert (run["status"], run["return_code"]) == ("Finished", 0)
    assert run["stdout"] == "\u00e9cba\n"
    assert 0 < run["execution_time"] < 5
    assert answer["files"] == {}
    assert answer["verdict"] == "ok"
    assert answer["detail"]["backend"] == "zygote"


@pytest.mark.parametrize(
    ("code", "fields", "status", "run_status", "return_code", "verdict"),
    [
        ("raise SystemExit(3)", {}, "Failed", "Finished", 3, "exit"),
        ("1 / 0", {}, "Failed", "Finished", 1, "exit"),
        ("import os; os.abort()", {}, "Failed", "Finished", -6, "signal"),
        (
            "import time; time.sleep(9)",
            {"run_timeout": 0.3},
            "Failed",
            "TimeLimitExceeded",
            None,
            "time_wall",
        ),
        ("print('x' * 10**7)", {}, "Failed", "Finished", None, "output"),
        ("x = bytes(2**31)", {"memory_limit_MB": 128}, "Failed", "Finished", 1, "exit"),
    ],
)
def test_each_end_is_told(server, code, fields, status, run_status, return_code, verdict):
    answer = server.python(code, **fields)
    assert (answer["status"], answer["verdict"]) == (status, verdict)
    assert answer["run_result"]["status"] == run_status
    if return_code is not None or run_status == "TimeLimitExceeded":
        assert answer["run_result"]["return_code"] == return_code
    assert answer["run_result"]["return_code"] != 0


def test_cpp_is_compiled_and_a_refusal_is_told(server):
    good = '#include <cstdio>\nint main() { std::puts("hi"); }'
    status, answer, _ = server.ask(body={"language": "cpp", "code": good})
    assert (status, answer["status"]) == (200, "Success")
    assert answer["compile_result"]["return_code"] == 0
    assert answer["run_result"]["stdout"] == "hi\n"
    status, answer, _ = server.ask(body={"language": "cpp", "code": "int main( {"})
    assert (answer["status"], answer["verdict"]) == ("Failed", "compile")
    assert answer["compile_result"]["return_code"] != 0
    assert "error" in answer["compile_result"]["stderr"]
    assert answer["run_result"] is None


def test_files_go_in_and_out_in_base64(server):
    content = bytes(range(256))
    answer = server.python(
        "data = open('in.bin', 'rb').read(); open('out.bin', 'wb').write(data[::-1])",
        files={"in.bin": b64encode(content).decode(), "skipped": None},
        fetch_files=["out.bin", "absent"],
    )
    assert {name: b64decode(data) for name, data in answer["files"].items()} == {
        "out.bin": content[::-1]
    }


RUN = {"language": "python", "code": "pass"}
REFUSALS = [
    ({"language": "cobol"}, "language"),
    ({"language": None}, "language"),
    ({"code": 1}, "code"),
    ({"code": "x" * (2**20 + 1)}, "code"),
    ({"run_timeout": 0}, "run_timeout"),
    ({"run_timeout": -1}, "run_timeout"),
    ({"run_timeout": 301}, "run_timeout"),
    ({"run_timeout": True}, "run_timeout"),
    ({"run_timeout": "10"}, "run_timeout"),
    ({"compile_timeout": 1000}, "compile_timeout"),
    ({"memory_limit_MB": 10**6}, "memory_limit_MB"),
    ({"memory_limit_MB": 0}, "memory_limit_MB"),
    ({"memory_limit_MB": 1.5}, "memory_limit_MB"),
    ({"stdin": 1}, "stdin"),
    ({"stdin": "a", "stdin_base64": "YQ=="}, "stdin_base64"),
    ({"stdin_base64": "a"}, "stdin_base64"),
    ({"stdin_base64": "\u00e9"}, "stdin_base64"),
    ({"files": {"x": "not base64!"}}, "files.x"),
    ({"fetch_files": "x"}, "fetch_files"),
    ({"args": ["x"] * 257}, "args"),
    ({"limits": {"cpu_s": 1000}}, "limits.cpu_s"),
    ({"limits": {"memory_bytes": 2**40}}, "limits.memory_bytes"),
    ({"limits": {"processes": 0}}, "limits.processes"),
    ({"limits": {"nope": 1}}, "limits.nope"),
    ({"nope": 1}, "nope"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSALS, ids=lambda value: str(value)[:50])
def test_fields_that_make_no_sense_are_refused_by_name(server, fields, param):
    refused(server.ask(body={**RUN, **fields}), 400, param=param)


NAMES = [
    "../x",
    "..",
    ".",
    "/etc/x",
    "a/b",
    "a\0b",
    "x" * 300,
    "",
    "a b",
    "main.py",
    "\u00e9",
    "a\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_file_names_that_leave_the_folder_are_refused(server, name):
    refused(server.ask(body={**RUN, "files": {name: "YQ=="}}), 400)
    if name != "main.py":  # a program may well read itself
        refused(server.ask(body={**RUN, "fetch_files": [name]}), 400)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'{"code": NaN}', b"[" * 100_000, b'{"code": "\\ud800"}', b"\xff"],
)
def test_bodies_that_are_no_strict_json_are_refused(server, body):
    refused(server.ask(body=body), 400, "invalid_json")


def test_sizes_types_methods_and_addresses_are_refused_in_one_shape(server):
    long = {"Content-Length": str(9 << 20)}
    refused(server.ask(body=b"x", headers=long), 413, "body_too_large")
    refused(server.ask(body=b"{}", headers={"Content-Type": "text/plain"}), 415)
    refused(server.ask(method="GET"), 405)
    refused(server.ask("/run_jupyter", body={}), 404, "not_found")
    refused(server.ask(body=RUN, headers={"Origin": "http://evil.example"}), 403, "origin")
    refused(server.ask(body=RUN, headers={"Host": "evil.example"}), 403, "host")


def test_ping_health_and_metrics(server):
    status, answer, headers = server.ask("/v1/ping")
    assert (status, answer, headers["x-sandbox"]) == (200, "pong", "openzaya")
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    server.python("pass")
    text = server.ask("/metrics")[1].decode()
    assert 'openzaya_sandbox_runs_total{verdict="ok"}' in text
    assert 'openzaya_requests_total{route="/run_code",status="200"}' in text


def test_keys_open_every_route_but_health():
    keys = Keys(
        (
            Key(hashlib.sha256(b"runner").digest(), frozenset({"infer"})),
            Key(hashlib.sha256(b"watcher").digest(), frozenset({"metrics"})),
        )
    )
    with serving(keys=keys) as server:
        for path, body in (("/run_code", RUN), ("/v1/ping", None), ("/metrics", None)):
            refused(server.ask(path, body), 401, "invalid_api_key")
            refused(server.ask(path, body, {"Authorization": "Bearer wrong"}), 401)
        assert server.ask("/health")[0] == 200
        watcher = {"Authorization": "Bearer watcher"}
        refused(server.ask(body=RUN, headers=watcher), 403, "missing_right")
        assert server.ask("/metrics", headers=watcher)[0] == 200
        assert server.ask(body=RUN, headers={"Authorization": "Bearer runner"})[0] == 200
        assert HttpExecutor(server.url, "runner").run(Request(source="pass")).status is Status.OK
        stranger = HttpExecutor(server.url, "wrong")
        assert stranger.run(Request(source="pass")).status is Status.INFRA
        with pytest.raises(SandboxError, match="401"):
            stranger.check()


def test_a_run_that_the_clients_caller_gives_up_ends_on_the_server():
    stop = threading.Event()
    request = Request(source="import time; time.sleep(40)", limits=Limits(wall_s=60), stop=stop)
    with serving(slots=1, executor=Watched()) as server, ThreadPoolExecutor(1) as threads:
        result = threads.submit(HttpExecutor(server.url).run, request)
        while not server.service.executor.running_now:
            time.sleep(0.01)
        stop.set()
        began = time.monotonic()
        assert result.result().status is Status.INFRA
        while server.service.executor.running_now:
            assert time.monotonic() - began < 5
            time.sleep(0.01)


@pytest.mark.slow
def test_a_full_queue_is_429_with_a_time_to_come_back_and_the_client_waits_for_it():
    sleep = {**RUN, "code": "import time; time.sleep(0.5)"}
    with serving(replace(ServeConfig(), max_queue=16), slots=1) as server:
        with ThreadPoolExecutor(24) as threads:
            replies = list(threads.map(lambda _: server.ask(body=sleep), range(24)))
        statuses = [status for status, _, _ in replies]
        assert statuses.count(200) == 17
        assert statuses.count(429) == 7
        for status, body, headers in replies:
            if status == 429:
                assert body["error"]["code"] == "queue_full"
                assert 1 <= int(headers["retry-after"]) <= 60
        server.service.num_in_flight = 1 << 20  # as if it were full
        impatient = HttpExecutor(server.url, patience_s=0)
        result = impatient.run(Request(source="pass"))
        assert result.status is Status.INFRA
        assert "429" in result.reason
        patient = HttpExecutor(server.url, patience_s=60)
        server.service.mean_s = 0.01
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(patient.run, Request(source="print(1)"))
            time.sleep(0.3)
            assert not waiting.done()
            server.service.num_in_flight = 0
            assert waiting.result().stdout == b"1\n"


def test_a_program_whose_turn_does_not_come_is_503_and_one_that_runs_goes_on():
    with serving(replace(ServeConfig(), queue_s=0.5), slots=1) as server:
        sleep = {**RUN, "code": "import time; time.sleep(2); print(1)"}
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(server.ask, body=sleep)
            while server.service.num_in_flight < 1:
                time.sleep(0.01)
            status, body, headers = server.ask(body={**RUN, "code": "print(2)"})
            assert not running.done()
            assert status == 503
            assert body["error"]["code"] == "queue_timeout"
            assert "no box came free in 0.5 s" in body["error"]["message"]
            assert 1 <= int(headers["retry-after"]) <= 60
            assert running.result()[1]["run_result"]["stdout"] == "1\n"
        assert server.python("print(3)")["run_result"]["stdout"] == "3\n"
        assert (
            'openzaya_sandbox_runs_total{verdict="ok"} 2.0'
            in server.service.metrics.text().decode()
        )


def test_a_program_that_waits_is_never_started_when_its_client_leaves():
    with serving(slots=1) as server:
        slow = json.dumps({**RUN, "code": "import time; time.sleep(1)"}).encode()
        head = b"POST /run_code HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(slow)
        gone = []
        for _ in range(6):
            gone.append(socket.create_connection(("127.0.0.1", server.port)))
            gone[-1].sendall(head + slow)
        while server.service.num_in_flight < 6:
            time.sleep(0.01)
        for connection in gone:
            connection.close()
        began = time.monotonic()
        assert server.python("print(7)")["run_result"]["stdout"] == "7\n"
        assert time.monotonic() - began < 4  # not six seconds


def leave_while_running(server, body):
    """Ask for a run, wait until it runs in a thread, and hang up; return when that was."""
    content = json.dumps(body).encode()
    head = b"POST /run_code HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    while not server.service.executor.running_now:
        time.sleep(0.01)
    connection.close()
    return time.monotonic()


class Watched(ZygoteExecutor):
    """The zygote, which says how many runs are in it."""

    running_now = 0

    def attempt(self, request, order, compiling):
        self.running_now += 1
        try:
            return super().attempt(request, order, compiling)
        finally:
            self.running_now -= 1


ENDLESS = [
    ("python", "import time; time.sleep(40)"),
    ("python", "while True: pass"),
    ("cpp", "int main() { for (;;) {} }"),
    ("cpp", "template <int N, long K> struct F { enum { v = F<N - 1, 2 * K>::v"
            " + F<N - 1, 2 * K + 1>::v }; };\n"
            "template <long K> struct F<0, K> { enum { v = 1 }; };\n"
            "int main() { return F<24, 1>::v; }"),  # it takes the compiler half a minute
]  # fmt: skip


@pytest.mark.parametrize(("language", "code"), ENDLESS)
def test_a_program_that_runs_ends_soon_after_its_client_has_left(language, code):
    if language == "cpp" and not Path("/usr/bin/g++").exists():
        pytest.skip("g++ is not installed")
    with serving(slots=1, executor=Watched()) as server:
        left = leave_while_running(server, {**RUN, "language": language, "code": code})
        while server.service.executor.running_now:
            assert time.monotonic() - left < 5  # 0.1 s where the machine is idle
            time.sleep(0.01)
        assert server.python("print(7)")["run_result"]["stdout"] == "7\n"
        counted = re.findall(
            r'runs_total{verdict="(\w+)"} 1.0', server.service.metrics.text().decode()
        )
        assert counted == ["ok"]  # a run that nobody waits for says nothing of the server


@pytest.mark.slow
def test_the_command_serves_and_ends_well():
    command = [sys.executable, "-m", "openzaya", "serve", "--sandbox", "--port", "0"]
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source}
    )
    assert process.stdout is not None
    with process, process.stdout:
        greeting = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        assert url, greeting
        result = HttpExecutor(url[0]).run(Request(source="print(6 * 7)"))
        process.terminate()
        assert process.wait(30) == 0
    assert (result.status, result.stdout, result.backend) == (Status.OK, b"42\n", "http:zygote")


class Broken(Executor):
    """An executor that fails in a way nobody foresaw, or says that no sandbox works."""

    error: Exception = RuntimeError("a secret of ours")

    def run(self, request):
        raise self.error

    def close(self):
        pass


def test_failures_of_ours_are_infra_or_500_and_never_a_traceback():
    broken = Broken()
    with serving(executor=broken) as server:
        status, body, _ = server.ask(body=RUN)
        assert status == 500
        assert "secret" not in json.dumps(body)
        assert HttpExecutor(server.url).run(Request(source="pass")).status is Status.INFRA
        broken.error = SandboxError("found no working sandbox")
        answer = server.python("pass")
        assert (answer["status"], answer["verdict"]) == ("SandboxError", "infra")
        assert answer["message"] == "found no working sandbox"
        result = HttpExecutor(server.url).run(Request(source="pass"))
        assert (result.status, result.reason) == (Status.INFRA, "found no working sandbox")


PROGRAMS = {
    "ok": Request(source="print(input())", stdin=b"x\n"),
    "arguments": Request(source="import sys; print(sys.argv[1:])", arguments=("a", "b c")),
    "bytes": Request(
        source="import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d)",
        stdin=bytes(range(256)),
    ),
    "exit": Request(source="raise SystemExit(9)"),
    "signal": Request(source="import os; os.kill(os.getpid(), 11)"),
    "cpu": Request(source="while True: pass", limits=Limits(cpu_s=0.3, wall_s=20)),
    "wall": Request(source="import time; time.sleep(9)", limits=Limits(wall_s=0.3)),
    "output": Request(source="while True: print('x' * 2000)", limits=Limits(output_bytes=1000)),
    "memory": Request(
        source="k = []\nwhile True: k.append(bytearray(2**20))",
        limits=Limits(memory_bytes=64 * 2**20),
    ),
    "compile": Request(source="int main( {", language="cpp"),
    "files": Request(
        source="open('o', 'wb').write(open('i', 'rb').read())",
        files={"i": b"\x00\xff"},
        fetch=("o",),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_client_tells_the_same_as_the_executor_behind_the_server(server, name):
    request = PROGRAMS[name]
    with HttpExecutor(server.url) as client:
        far = client.run(request)
    near = server.service.executor.run(request)
    assert far.status is near.status
    assert (far.exit_code, far.signal, far.files) == (near.exit_code, near.signal, near.files)
    assert (far.stdout, far.stderr) == (near.stdout, near.stderr)
    assert far.policy == near.policy
    assert far.backend == "http:zygote"
