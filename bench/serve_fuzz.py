"""Throw generated and broken requests at the server: no answer may be a 5xx.

    python bench/serve_fuzz.py --examples 5000
    python bench/serve_fuzz.py --gateway --examples 20000  the gateway, before a mock upstream
    python bench/serve_fuzz.py --schemathesis PATH         the program, where it is not on PATH

First schemathesis on our OpenAPI document (pip install schemathesis, best in an environment of its
own), then bodies that are broken on purpose. Prints what came back and the server's memory. The
exit code is 1 when there was a 5xx.
"""

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))
from gateway_rig import folder, gateway, mock
from serve_soak import rss_mib, serving

SEEDS = (
    {"model": "nano", "messages": [{"role": "user", "content": "sort ba"}], "max_tokens": 1},
    {"model": "nano", "prompt": [5, 6], "max_tokens": 1, "stop": ["a"], "n": 2, "seed": 3},
    {"prompt": "x", "parse_special": False},
    {"tokens": [5, 6, 7]},
)
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
SCRAPS = (
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"NaN", b"1e999", b"-0",
    b"9" * 30, b"\\ud800", b"\\u0000", b"\xff", b"\xef\xbb\xbf", b"<|im_end|>", b"\xee\x83\xb00",
    b"[" * 500, b'{"a":' * 500, b'"model": "nano",', b'{"type": "image_url"}',
)  # fmt: skip


@contextmanager
def gatewaying() -> Iterator[tuple[str, int]]:
    """Run the mock upstream and a gateway before it; yield the gateway's URL and process id."""
    settings = {"length": "fixed:8", "ttft_s": 0, "model": "nano"}
    with folder() as where, mock(where, **settings) as up, gateway(where, up.url) as served:
        yield served.url, served.pid


def schemathesis(program: str, url: str, examples: int, seed: int) -> int:
    """Run schemathesis; return its exit code."""
    words = ["run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--phases", "fuzzing"]
    words += ["--max-examples", str(-(-examples // operations(url)))]
    words += ["--seed", str(seed), "--mode", "all"]
    with TemporaryDirectory() as scratch:  # it leaves a folder where it runs
        return subprocess.run([program, *words], check=False, cwd=scratch).returncode


def operations(url: str) -> int:
    """How many there are in the server's OpenAPI document."""
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        return sum(len(methods) for methods in json.load(answer)["paths"].values())


def broken(rng: Random) -> bytes:
    """Return a sound body with a few cuts and scraps."""
    body = bytearray(json.dumps(rng.choice(SEEDS)).encode())
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(body) + 1)
        end = min(len(body), start + rng.choice((0, 0, 1, 3, 10)))
        body[start:end] = rng.choice(SCRAPS)
    return bytes(body)


def throw(url: str, count: int, seed: int) -> Counter[int]:
    """Send broken bodies over one connection; return how often each status came.

    A mangled field that we forward may be refused by the upstream, in the upstream's words.
    """
    rng = Random(seed)
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    for _ in range(count):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", rng.choice(PATHS), broken(rng), headers)
        response = connection.getresponse()
        body = response.read()
        statuses[response.status] += 1
        if response.status >= 400 and b"mock" not in body:
            assert set(json.loads(body)) == {"error"}, body
        if response.status >= 500:
            print("a server error:", body[:300])
    connection.close()
    return statuses


def main() -> int:
    """Run both, print, and say whether there was a 5xx."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gateway", action="store_true", help="ask the gateway")
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--schemathesis", default=shutil.which("schemathesis") or "")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    code = 0
    with gatewaying() if args.gateway else serving(slots=16, threads=1, context=160) as served:
        url, pid = served
        before = rss_mib(pid)
        if args.schemathesis:
            code = schemathesis(args.schemathesis, url, args.examples, args.seed)
            print(f"schemathesis: exit code {code}")
        else:
            print("schemathesis is not installed; only broken bodies are sent")
        statuses = throw(url, args.bodies, args.seed)
        print(f"{args.bodies} broken bodies:", dict(sorted(statuses.items())))
        print(f"resident memory {before:.0f} -> {rss_mib(pid):.0f} MiB")
    return int(code != 0 or max(statuses, default=0) >= 500)


if __name__ == "__main__":
    sys.exit(main())
