"""The drawer with one trace: what it was given, what it wrote, and what is shown in between."""

import pytest
from serve.web.browsing import WRITTEN, node, until, why_not
from serve.web.sample_runs import small_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]


def test_the_text_of_another_trace_is_gone_while_the_next_one_is_fetched(open_page, player):
    made = player.add(small_run())
    first, second = made.candidates[1], made.candidates[2]
    page = open_page(f"#/runs/{made.id}/0/1")
    body = page.locator(".drawer-body")
    page.locator(WRITTEN).wait_for()
    assert first["tail"] in body.text_content()
    player.is_held = True
    node(page, 0, 2).click()
    page.get_by_role("heading", name="Stage 0, slot 2").wait_for()
    assert body.inner_text() == "Loading\u2026"
    player.is_held = False
    page.locator(WRITTEN).wait_for()
    assert second["tail"] in body.text_content()


def test_a_tab_keeps_the_focus_when_its_trace_goes_on(open_page, player):
    made = player.add(small_run(), told=0)
    place = {"stage": 0, "slot": 1}
    page = open_page(f"#/runs/{made.id}/0/1")
    page.get_by_role("tab", name="Prompt").click()
    ends = next(
        i
        for i, (_, name, data) in enumerate(made.events)
        if name == "candidate" and data["state"] == "done" and data.items() >= place.items()
    )
    player.tell(made.id, ends + 1)
    page.locator(".drawer-head").get_by_text("finished").wait_for()
    page.locator(WRITTEN).wait_for()
    assert page.evaluate("document.activeElement.id") == "tab-prompt"


def test_the_prompt_says_whose_tails_it_holds_and_the_last_tail_that_nobody_reads_it(
    open_page, player
):
    made = player.add(small_run())
    c = made.candidates[6]
    page = open_page(f"#/runs/{made.id}/{c['stage']}/{c['slot']}")
    told = page.locator(".body-head")
    told.get_by_text("No stage follows that could read it").wait_for()
    page.get_by_role("tab", name="Prompt").click()
    a, b = c["parents"]
    assert f"the 2 tails of stage 0 from slots {a}, {b}, in this order" in told.inner_text()
    text = page.locator(WRITTEN).text_content()
    tails = [made.candidates[parent]["tail"].strip() for parent in (a, b)]
    assert -1 < text.find(tails[0]) < text.find(tails[1])
    node(page, 0, 0).click()
    told.get_by_text("All that this trace was given: the question.").wait_for()
    page.get_by_role("tab", name="Tail").click()
    assert "The last 900 tokens at most" in told.inner_text()


def test_a_trace_that_could_not_be_fetched_can_be_asked_for_again(open_page, player):
    made = player.add(small_run())
    page = open_page(f"#/runs/{made.id}", allow="503")
    page.wait_for_selector(".answer")
    player.is_away = True
    node(page, 0, 1).click()
    again = page.locator(".drawer").get_by_role("button", name="Try again")
    again.wait_for()
    player.is_away = False
    again.click()
    page.wait_for_selector(WRITTEN)


def test_the_lines_into_an_open_trace_stay_at_it_when_the_graph_moves(open_page, player):
    made = player.add(small_run())
    page = open_page(f"#/runs/{made.id}/1/2")
    page.wait_for_selector(".graph.dimmed")
    ends = (
        "[document.querySelector('.hot.direct').getAttribute('d').match(/([\\d.]+) [\\d.]+$/)[1],"
        "document.querySelector('[data-key=\\'1/2\\']').getAttribute('transform')"
        ".match(/[\\d.]+/)[0], document.querySelector('.graph').clientWidth].map(Number)"
    )
    _, x, width = page.evaluate(ends)
    page.set_viewport_size({"width": 900, "height": 800})
    until(page, f"document.querySelector('.graph').clientWidth !== {width}")
    line, moved, _ = page.evaluate(ends)
    assert moved != x
    assert 0 < moved - line < 20


def test_a_trace_that_is_opened_before_it_begins_is_lit_with_what_it_reads(open_page, player):
    made = player.add(small_run(), told=1)
    page = open_page(f"#/runs/{made.id}/1/2")
    page.get_by_text("This trace has not started.").wait_for()
    player.tell(made.id)
    page.wait_for_selector(".answer")
    lit = page.eval_on_selector_all(".graph .node.on", "e => e.map(x => x.dataset.key)")
    parents = made.candidates[6]["parents"]
    assert sorted(lit) == sorted(["1/2", *(f"0/{slot}" for slot in parents)])
