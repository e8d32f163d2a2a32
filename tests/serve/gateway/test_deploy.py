"""The files for running the gateway elsewhere: they can be read, and name what there is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from openzaya.cli.main import build_parser, load_verb
from openzaya.serve.gateway.metrics import GatewayMetrics
from openzaya.serve.keys import load_keys

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "gateway"
NAME = re.compile(r"\bopenzaya_\w+")


def metric_names() -> set[str]:
    """Every name that the gateway's /metrics can hold."""
    metrics = GatewayMetrics()
    found = {"url": "u", "model": "m", "state": "up", "failures": {"cut": 1}}
    metrics.watch_upstreams(lambda: {"upstreams": [found]})
    metrics.runs.labels("done", "16k")
    metrics.requests.labels("/", "200")
    metrics.calls.labels("stop")
    metrics.tokens.labels("generated")
    return set(NAME.findall(metrics.text().decode()))


def test_the_dashboard_asks_for_metrics_that_exist():
    board = json.loads((FOLDER / "grafana" / "dashboards" / "gateway.json").read_text())
    asked = set(NAME.findall(json.dumps(board)))
    assert len(asked) >= 12
    assert asked - metric_names() == set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_takes_rates_of_counters_and_of_nothing_else():
    board = json.loads((FOLDER / "grafana" / "dashboards" / "gateway.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            for name in NAME.findall(target["expr"]):
                is_counter = name.endswith(("_total", "_bucket"))
                assert (f"rate({name}[" in target["expr"]) == is_counter, target["expr"]


@pytest.mark.skipif(not shutil.which("openssl"), reason="the steps draw keys with openssl")
def test_the_keys_that_the_compose_file_asks_for_are_made_as_it_says(tmp_path):
    head = (FOLDER / "compose.yaml").read_text().partition("services:")[0]
    steps = [line.removeprefix("#   ") for line in head.splitlines() if line.startswith("#   ")]
    assert steps.pop() == "docker compose up"
    made = subprocess.run(
        ["sh", "-euc", "\n".join(steps)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    keys = load_keys(tmp_path / "keys.txt")
    assert keys.rights(f"Bearer {(tmp_path / 'metrics_key').read_text()}") == {"metrics"}
    assert "infer" in keys.rights(f"Bearer {made.stdout.removeprefix('your key: ').strip()}")
    # The gateway must run as the owner of a file that nobody else may read.
    assert (tmp_path / ".env").read_text() == f"OWNER={os.getuid()}:{os.getgid()}\n"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for path in tmp_path.iterdir():
        assert f"/deploy/gateway/{path.name}" in ignored


def test_the_compose_file_starts_the_gateway_with_flags_that_it_knows():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    words = services["gateway"]["command"].split()
    args = build_parser(load_verb("serve")).parse_args(words)
    assert args.upstream == ["http://engine:30000"]
    assert args.keys == "/keys.txt"
    assert services["gateway"]["user"].startswith("${OWNER:-")
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            made_by_the_user = source in ("./keys.txt", "./metrics_key")
            assert not source.startswith(".") or made_by_the_user or (FOLDER / source).exists()


def test_the_image_is_built_of_files_that_exist_and_that_the_builder_is_given():
    steps = re.findall(r"^COPY (.*) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    copied = {Path(name).name for step in steps for name in step.split()}
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(kept)
    assert all((ROOT / name).exists() for name in copied)


def test_the_journals_of_containers_lie_in_the_volume_and_not_with_root():
    dockerfile = (FOLDER / "Dockerfile").read_text()
    folder = re.search(r"^ENV XDG_STATE_HOME=(\S+)$", dockerfile, re.MULTILINE)[1]
    assert f"mkdir -m 1777 {folder}\n" in dockerfile
    assert re.search(r"^USER [1-9]", dockerfile, re.MULTILINE)
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert f"journal:{folder}" in services["gateway"]["volumes"]


def test_every_file_of_the_folder_can_be_read():
    read = [yaml.safe_load(path.read_text()) for path in sorted(FOLDER.rglob("*.yaml"))]
    assert len(read) == 4
    assert all(read)
