"""Markovian RSA over servers that other people wrote, with models that we made."""

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import SRC, python, server_process

from openzaya.backends.http_server import HttpConfig
from openzaya.backends.pool import Upstreams
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig, Result

NANO = SRC / "openzaya" / "assets" / "nano"
CONFIG = MarkovianRSAConfig(
    num_candidates=4, tails_per_prompt=2, rounds=1, budget_tokens=60, tail_tokens=24
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def solve(url: str, model: str = "", config: MarkovianRSAConfig = CONFIG) -> Result:
    """Answer one question over a server, as the gateway does."""

    async def main() -> Result:
        async with Upstreams([HttpConfig(url=url, model=model)]) as pool:
            return await MarkovianRSA(config).run("sort qdkax", pool.sampler(), seed=3)

    return asyncio.run(asyncio.wait_for(main(), 200))


def check(result: Result) -> None:
    """All candidates came, were counted, and the later ones were shown tails of the earlier."""
    assert [len(r.survivors) for r in result.rounds] == [4, 4]
    assert not result.degraded
    for candidate in (c for r in result.rounds for c in r.candidates):
        assert candidate.text.strip()
        assert 0 < candidate.num_tokens <= 60
        assert candidate.num_prompt_tokens > 0
        assert candidate.tail
    # A tail of an earlier round is in every later prompt, so those are longer.
    first, second = (min(c.num_prompt_tokens for c in r.candidates) for r in result.rounds)
    assert second > first + 10


def missing(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


@pytest.mark.slow
def test_our_own_engine_answers_a_run_and_the_curl_commands_of_the_readme(tmp_path):
    words = python("openzaya", "serve", "--port", "0", "--max-slots", "4", "--context", "1024")
    readme = (SRC.parent / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^curl (?:.*\\\n)*.*", readme, re.MULTILINE)
    commands = [command for command in commands if '"model": "nano"' in command]
    assert commands
    with server_process(words, tmp_path / "engine.log") as url:
        result = solve(url)
        for command in commands:
            live = command.replace("http://127.0.0.1:8000", url)
            told = subprocess.run(["bash", "-c", live], capture_output=True, check=True).stdout
            assert json.loads(told)["choices"][0]["message"]["content"], command
    check(result)
    assert result.tail_method == "exact (token ids of the server)"
    assert result.answer == "adkqx"


@pytest.mark.slow
@pytest.mark.skipif(
    bool(missing("transformers", "fastapi", "accelerate")),
    reason="needs transformers serve: pip install 'transformers[serving]' accelerate",
)
def test_transformers_serve_answers_a_run(tmp_path):
    port = free_port()
    program = Path(sys.executable).parent / "transformers"
    words = [str(program), "serve", str(NANO), "--host", "127.0.0.1", "--port", str(port)]
    (tmp_path / "hub").mkdir()
    # What this process can import, the server can too.
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": os.pathsep.join(sys.path)}
    url = f"http://127.0.0.1:{port}"
    with server_process(words, tmp_path / "transformers.log", url, env) as url:
        result = solve(url, model=str(NANO))
    check(result)
