"""Throw generated and broken requests at the server: no answer may be a 5xx.

    python bench/serve_fuzz.py --examples 5000
    python bench/serve_fuzz.py --schemathesis PATH        the program, where it is not on PATH

First schemathesis on our OpenAPI document (pip install schemathesis, best in an environment of its
own), then bodies that are broken on purpose. Prints what came back and the server's memory.
"""

import argparse
import http.client
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))
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


def schemathesis(program: str, url: str, examples: int, seed: int) -> int:
    """Run schemathesis; return its exit code."""
    words = ["run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--phases", "fuzzing"]
    words += ["--max-examples", str(examples // 4 + 1), "--seed", str(seed), "--mode", "all"]
    with TemporaryDirectory() as scratch:  # it leaves a folder where it runs
        return subprocess.run([program, *words], check=False, cwd=scratch).returncode


def broken(rng: Random) -> bytes:
    """Return a sound body with a few cuts and scraps."""
    body = bytearray(json.dumps(rng.choice(SEEDS)).encode())
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(body) + 1)
        end = min(len(body), start + rng.choice((0, 0, 1, 3, 10)))
        body[start:end] = rng.choice(SCRAPS)
    return bytes(body)


def throw(url: str, count: int, seed: int) -> Counter[int]:
    """Send broken bodies over one connection; return how often each status came."""
    rng = Random(seed)
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    for _ in range(count):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", rng.choice(PATHS), broken(rng), headers)
        response = connection.getresponse()
        body = response.read()
        statuses[response.status] += 1
        if response.status >= 400:
            assert set(json.loads(body)) == {"error"}, body
        if response.status >= 500:
            print("a server error:", body[:300])
    connection.close()
    return statuses


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--schemathesis", default=shutil.which("schemathesis") or "")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with serving(slots=16, threads=1, context=160) as (url, pid):
        before = rss_mib(pid)
        if args.schemathesis:
            code = schemathesis(args.schemathesis, url, args.examples, args.seed)
            print(f"schemathesis: exit code {code}")
        else:
            print("schemathesis is not installed; only broken bodies are sent")
        statuses = throw(url, args.bodies, args.seed)
        print(f"{args.bodies} broken bodies:", dict(sorted(statuses.items())))
        print(f"resident memory {before:.0f} -> {rss_mib(pid):.0f} MiB")


if __name__ == "__main__":
    main()
