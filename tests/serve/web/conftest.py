"""A page in Chromium over a server that plays recorded runs."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from serve.web.browsing import LIMIT_MS, launch, serving
from serve.web.play import Player

WIDE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as found:
        yield found


@pytest.fixture
def player() -> Iterator[Player]:
    made = Player()
    with serving(made) as url:
        made.url = url
        yield made


@pytest.fixture
def open_page(browser, player):
    """Give a function that opens an address; the page must run without an error of its own."""
    contexts, troubles = [], []

    def opened(address: str, *, allow: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport=options.pop("viewport", WIDE), **options)
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda m: (
                m.type == "error"
                and not (allow and re.search(allow, m.text))
                and troubles.append(m.text)
            ),
        )
        page.goto(address if "://" in address else f"{player.url}/{address}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []
