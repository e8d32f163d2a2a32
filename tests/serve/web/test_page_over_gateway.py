"""The page in Chromium over the real gateway, its journal and a mock upstream."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from serve.web.browsing import WRITTEN, launch, why_not

from openzaya.serve.web import page as page_bytes

gateways = pytest.importorskip("serve.gateway.conftest", reason="needs the gateway's tests")
gatewaying, upstream, MockConfig = gateways.gatewaying, gateways.upstream, gateways.MockConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]
MOCK = MockConfig(
    ttft_s=0.02, token_s=0.004, length="lognormal:120:0.5", accuracy=0.6, cached_share=0.25
)
LIMIT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch() as found:
        yield found


@pytest.fixture
def look(browser):
    """Give a function that opens an address; the page must run without an error of its own."""
    contexts, troubles = [], []

    def opened(url: str) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def test_the_gateway_serves_this_page(tmp_path):
    with upstream(MOCK) as mock, gatewaying(mock, tmp_path / "runs.sqlite") as running:
        status, body, headers = running.ask("/")
        packed, small, told = running.ask("/", headers={"Accept-Encoding": "br, gzip"})
    assert (status, body) == (200, page_bytes())
    assert "script-src 'sha256-" in headers["content-security-policy"]
    assert "content-encoding" not in headers
    assert (packed, gzip.decompress(small)) == (200, body)
    assert told["content-encoding"] == "gzip"
    assert told["vary"] == headers["vary"] == "Accept-Encoding"


def ask_small(page: Any, question: str) -> str:
    """Ask for a run of 8 candidates in 2 stages; return its address."""
    page.wait_for_selector("#question")
    page.fill("#question", question)
    page.get_by_text("Advanced").click()
    for name, value in (("num_candidates", 4), ("rounds", 1), ("budget_tokens", 4096)):
        page.fill(f"#field-{name}", str(value))
    page.wait_for_selector(".cost .figures >> text=/^8$/")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/#/runs/*")
    return str(page.url)


def test_a_question_is_asked_watched_and_found_again_in_the_journal(look, tmp_path):
    path = tmp_path / "runs.sqlite"
    with upstream(MOCK) as mock, gatewaying(mock, path) as running:
        page = look(running.url)
        address = ask_small(page, "What is 6 times 7?").partition("#")[2]
        page.wait_for_selector(".graph .running")
        page.wait_for_selector(".answer")
        page.wait_for_selector(".graph .won")
        answer = page.locator(".answer").inner_text()
        assert page.locator(".graph .node").count() == 8
        assert page.locator(".timeline .decode").count() == 8
    with upstream(MOCK) as mock, gatewaying(mock, path) as running:
        before = mock.stats()["calls"]
        page = look(f"{running.url}/#{address}")
        page.wait_for_selector(".answer")
        assert page.locator(".answer").inner_text() == answer
        assert page.locator(".graph .node").count() == 8
        assert page.locator(".edge").count() >= 1
        page.locator('.graph [data-key="1/2"]').click()
        page.get_by_role("tab", name="Prompt").click()
        page.wait_for_selector(WRITTEN)
        assert "What is 6 times 7?" in page.locator(WRITTEN).text_content()
        page.get_by_role("link", name="Runs").click()
        page.wait_for_selector("tbody tr")
        assert page.locator("tbody tr").count() == 1
        assert mock.stats()["calls"] == before


def test_a_run_goes_on_when_its_page_is_left(look, tmp_path):
    slow = MockConfig(ttft_s=0.02, token_s=0.004, length="fixed:200")
    with upstream(slow) as mock, gatewaying(mock, tmp_path / "runs.sqlite") as running:
        page = look(running.url)
        address = ask_small(page, "What is 6 times 7?")
        page.wait_for_selector(".graph .running")
        page.reload()
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_selector(".answer")
        assert page.locator(".badge.good").count() == 1
        assert mock.stats()["aborted"] == 0


def test_a_trace_is_seen_to_grow_while_it_is_written(look, tmp_path):
    slow = MockConfig(ttft_s=0.01, token_s=0.01, length="fixed:4000")
    with upstream(slow) as mock, gatewaying(mock, tmp_path / "runs.sqlite") as running:
        page = look(running.url)
        ask_small(page, "What takes long?")
        page.locator(".graph .running .arc").first.wait_for()
        page.locator(".graph .running").first.click()
        page.get_by_text("Not yet; Raw shows what the trace has written so far.").wait_for()
        page.get_by_role("tab", name="Raw").click()
        text = page.locator(WRITTEN)
        text.wait_for()
        begun = text.text_content()
        while len(text.text_content()) == len(begun):
            page.wait_for_timeout(20)
        assert text.text_content().startswith(begun)
        page.get_by_role("button", name="Cancel run").click()
        page.wait_for_selector(".badge.warn")


def test_the_bundled_model_answers_with_the_preset_that_the_page_chooses(look, server):
    page = look(server.url)
    page.wait_for_selector(".figures")
    assert page.locator(".preset :checked").get_attribute("value") == "nano"
    assert page.get_by_role("alert").is_hidden()
    page.get_by_text("16k", exact=True).click()
    page.get_by_text("the 1,024 tokens that nano holds").wait_for()
    page.get_by_text("nano", exact=True).last.click()
    page.get_by_role("alert").wait_for(state="hidden")
    page.fill("#question", "sort qdkax")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".answer")
    assert page.locator(".badge.good").count() == 1


def test_a_run_is_cancelled_from_the_page(look, tmp_path):
    slow = MockConfig(ttft_s=0.01, token_s=0.05, length="fixed:2000")
    with upstream(slow) as mock, gatewaying(mock, tmp_path / "runs.sqlite") as running:
        page = look(running.url)
        ask_small(page, "What takes long?")
        page.wait_for_selector(".graph .running")
        page.get_by_role("button", name="Cancel run").click()
        page.wait_for_selector(".badge.warn")
        assert page.locator(".graph .running").count() == 0
        assert page.locator(".badge.live").count() == 0
