"""A Chromium to look at the page with, and the server that it looks at."""

import asyncio
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import uvicorn
from serve.web.play import Player, create_player

LIMIT_MS = 20_000
"""A loaded machine is slow; nothing here depends on being fast."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

WRITTEN = ".drawer-body :is(pre, .typeset)"
"""What an open trace wrote or was given."""


def why_not() -> str:
    """Say why no browser can be started; empty when one can."""
    if importlib.util.find_spec("playwright") is None:
        return "needs the package playwright: pip install 'openzaya[browser]'"
    if not chromium():
        return "needs Chromium: apt-get install chromium, or name one in OPENZAYA_CHROMIUM"
    return ""


def chromium() -> str:
    """Return the path of the browser; empty when there is none."""
    named = os.environ.get("OPENZAYA_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), "")
    return found if shutil.which(found) else ""


@contextmanager
def launch() -> Iterator[Any]:
    """Run a headless browser while the block runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(player: Player) -> Iterator[str]:
    """Play recorded runs on a loopback port while the block runs; yield the address."""
    config = uvicorn.Config(
        create_player(player), port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.force_exit = True  # streams of live runs would go on
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(page: Any, expression: str, arg: Any = None) -> None:
    """Wait until an expression is true; the page's policy forbids the browser to wait for it."""
    give_up = time.monotonic() + LIMIT_MS / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < give_up, f"never true: {expression}"
        page.wait_for_timeout(20)


def node(page: Any, stage: int, slot: int) -> Any:
    return page.locator(f'.graph .node[data-key="{stage}/{slot}"]')
