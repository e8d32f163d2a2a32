"""Prometheus itself reads a gateway by our settings, and the dashboard's questions have answers.

Needs the programs prometheus and promtool: apt-get install prometheus
"""

import http.client
import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from gateway_clients.test_real_upstreams import free_port
from server_process import python, server_process

FOLDER = Path(__file__).parents[2] / "deploy" / "gateway"
BOARD = json.loads((FOLDER / "grafana" / "dashboards" / "gateway.json").read_text())
TARGETS = [(panel, target) for panel in BOARD["panels"] for target in panel["targets"]]
KEYS = {"infer": "a key that asks", "metrics": "a key that reads metrics"}
TTC = {"num_candidates": 4, "tails_per_prompt": 2, "rounds": 1, "budget_tokens": 100}
TTC["tail_tokens"] = 20
BODY = {"messages": [{"role": "user", "content": "How many? [key: 42]"}]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="needs Prometheus: apt-get install prometheus",
    ),
]


def fetch(url: str, right: str = "metrics", **fields: Any) -> bytes:
    """Return what a server answers; with fields they are asked for as a chat."""
    headers = {"Authorization": f"Bearer {KEYS[right]}", "Content-Type": "application/json"}
    body = json.dumps({**BODY, **fields}).encode() if fields else None
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return answer.read()


def leave_a_stream(gateway: str) -> None:
    """Ask for a run as a stream and go when it begins."""
    connection = http.client.HTTPConnection(gateway.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {KEYS['infer']}", "Content-Type": "application/json"}
    body = json.dumps({**BODY, "model": "mock", "stream": True, "ttc": TTC})
    connection.request("POST", "/v1/chat/completions", body, headers)
    connection.getresponse().read(1)
    connection.close()


def query(prometheus: str, expr: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of every series that a question has now."""
    words = urllib.parse.urlencode({"query": expr})
    data = json.loads(fetch(f"{prometheus}/api/v1/query?{words}"))["data"]
    assert data["resultType"] == "vector", expr
    found = [(series["metric"], float(series["value"][1])) for series in data["result"]]
    return [(labels, value) for labels, value in found if not math.isnan(value)]


def wait_for(prometheus: str, expr: str, value: float) -> None:
    """Wait until Prometheus has read a figure."""
    until = time.monotonic() + 10
    while [found for _, found in query(prometheus, expr)] != [value]:
        assert time.monotonic() < until, (expr, value, query(prometheus, expr))
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files of keys that the compose file mounts."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "metrics_key").write_text(KEYS["metrics"])
    (folder / "keys.txt").touch(mode=0o600)
    lines = [f"{sha256(key.encode()).hexdigest()} {right}\n" for right, key in KEYS.items()]
    (folder / "keys.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[str]:
    """A gateway before a server of which every fourth call fails."""
    mock = ["openzaya.backends.mock", "--port", "0", "--fault", "500=0.25"]
    words = ["openzaya", "serve", "--port", "0", "--keys", str(folder / "keys.txt")]
    words += ["--set", f"journal={folder / 'runs.db'}", "--set", "drain_s=3"]
    with (
        server_process(python(*mock), folder / "mock.log") as upstream,
        server_process(python(*words, "--upstream", upstream), folder / "gateway.log") as url,
    ):
        yield url


@pytest.fixture(scope="module")
def prometheus(gateway: str, folder: Path) -> Iterator[str]:
    """Prometheus with our settings; only places and the pace are others than in the containers."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(folder / "metrics_key")
    job["static_configs"][0]["targets"] = [gateway.removeprefix("http://")]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    words = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}"]
    words += [f"--storage.tsdb.path={folder / 'tsdb'}"]
    words += [f"--web.listen-address={url.removeprefix('http://')}"]
    with server_process(words, folder / "prometheus.log", url, ready="/-/ready"):
        yield url


def test_every_question_of_the_dashboard_has_an_answer_that_a_panel_can_show(gateway, prometheus):
    chat, until, rounds = f"{gateway}/v1/chat/completions", time.monotonic() + 60, 0
    while empty := [t["expr"] for _, t in TARGETS if not query(prometheus, t["expr"])]:
        assert time.monotonic() < until, empty
        fetch(chat, "infer", model="mock", ttc=TTC)
        leave_a_stream(gateway)
        with suppress(urllib.error.HTTPError):  # what is passed through may be a failure
            fetch(chat, "infer", model="mock", ttc=False)
        rounds += 1
    for panel, target in TARGETS:
        for labels, value in query(prometheus, target["expr"]):
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(labels), labels
            most = 10 if panel["fieldConfig"]["defaults"]["unit"] == "s" else 1e6
            assert 0 <= value < most, (target["expr"], value)
    # Nothing is lost on the way: what was asked is what is counted.
    wait_for(prometheus, 'sum(openzaya_requests_total{route="/v1/chat/completions"})', 3 * rounds)
    wait_for(prometheus, 'sum(openzaya_runs_total{preset="16k"})', 2 * rounds)
    wait_for(prometheus, 'sum(openzaya_runs_total{state="done"})', rounds)
    wait_for(prometheus, "openzaya_run_seconds_count", 2 * rounds)
    wait_for(prometheus, "openzaya_disconnects_total", rounds)
    wait_for(prometheus, 'openzaya_upstream_state{state="up"}', 1)
    wait_for(prometheus, "openzaya_upstream_limit", 64)


def test_promtool_finds_nothing_to_say_against_settings_and_metrics(
    gateway, prometheus, folder, tmp_path
):
    words = ["promtool", "check", "config", str(folder / "prometheus.yaml")]
    assert subprocess.run(words, check=False).returncode == 0
    engine = python("openzaya", "serve", "--port", "0", "--set", f"journal={tmp_path / 'runs.db'}")
    with server_process(engine, tmp_path / "engine.log") as own:
        fetch(f"{own}/v1/chat/completions", model="nano", ttc=TTC)
        for url in (gateway, own):
            words = ["promtool", "check", "metrics"]
            text = fetch(f"{url}/metrics")
            told = subprocess.run(words, input=text, capture_output=True, check=False)
            assert (told.returncode, told.stdout + told.stderr) == (0, b"")
            assert text.count(b"openzaya_") > 50
        # A count that nobody keeps is left out rather than told as 0.
        assert b'openzaya_upstream_limit{model="nano"' in text
        assert b"openzaya_upstream_calls_total{" not in text
