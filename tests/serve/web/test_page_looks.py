"""What the page looks like in the colours, sizes and media that readers have."""

import re

import pytest
from serve.web.browsing import WRITTEN, node, until, why_not
from serve.web.sample_runs import failed_run, good_run, hard_run, hostile_run, small_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]
FENCED = "So:\n```python\nfor i in x:\n    print(i)\n```\nThe answer is \\boxed{84}."
CONTRASTS = """selector => {
  const light = text => {
    const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = e => {
    const of = e => getComputedStyle(e || document.body).backgroundColor;
    while (e && /, 0\\)$|transparent/.test(of(e))) e = e.parentElement;
    return of(e);
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort();
    return (y + 0.05) / (x + 0.05);
  };
  return [...document.querySelectorAll(selector)].flatMap(e => {
    const line = getComputedStyle(e).borderTopColor;
    return [ratio(line, ground(e)), ratio(line, ground(e.parentElement))];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_borders_of_inputs_have_the_contrast_that_wcag_wants(open_page, player, scheme):
    page = open_page("#/", color_scheme=scheme)
    page.get_by_text("Advanced").click()
    found = page.evaluate(CONTRASTS, "textarea, select, input:not([type=radio])")
    assert len(found) >= 2 * 12
    assert min(found) >= 3
    page.goto(f"{player.url}/#/runs")
    page.wait_for_selector("#search")
    found = page.evaluate(CONTRASTS, "#search, .segmented")
    assert len(found) == 4
    assert min(found) >= 3


def test_answers_and_amounts_are_told_apart_in_forced_colours(open_page, player):
    made = player.add(good_run())
    page = open_page(f"#/runs/{made.id}", forced_colors="active")
    page.wait_for_selector(".answer")
    grounds = "e => e.map(x => getComputedStyle(x).backgroundColor)"
    parts = page.eval_on_selector_all(".stage-bar:first-child .stack i", grounds)
    assert len(set(parts)) >= 8
    amount, all_of_it = page.eval_on_selector_all(".bar, .bar i:first-child", grounds)[:2]
    assert amount != all_of_it
    page.get_by_role("button", name="Group by answer").click()
    buttons = page.eval_on_selector_all(".lineage .tools button", grounds)
    assert len(set(buttons)) == 2


def test_a_printed_run_is_the_run_and_not_the_screen(open_page, player):
    made = player.add(good_run())
    page = open_page(f"#/runs/{made.id}/1/1", color_scheme="dark")
    page.wait_for_selector(WRITTEN)
    page.emulate_media(media="print")
    for part in (".top", ".drawer", ".tools", ".actions"):
        assert page.locator(part).first.is_hidden()
    page.set_viewport_size({"width": 700, "height": 900})
    assert page.locator(".answer").is_visible()
    assert page.locator("main").bounding_box()["width"] > 650
    ink = page.evaluate("getComputedStyle(document.querySelector('.answer')).color")
    assert sum(map(int, re.findall(r"\d+", ink))) < 150


def test_nothing_in_the_list_is_cut_at_320_pixels(open_page, player):
    for made in (hard_run(), failed_run(), hostile_run()):
        player.add(made)
    page = open_page("#/runs", viewport={"width": 320, "height": 640})
    page.wait_for_selector("tbody tr")
    assert page.locator(".badge:text('degraded')").count() == 1
    over = page.evaluate(
        "[...document.querySelectorAll('tbody td')].map(e => e.getBoundingClientRect().right"
        " - document.querySelector('.run-list').getBoundingClientRect().right)"
    )
    assert max(over) <= 0


def test_a_wide_screen_has_room_for_a_trace_beside_the_run(open_page, player):
    made = player.add(good_run())
    page = open_page(f"#/runs/{made.id}", viewport={"width": 2560, "height": 1200})
    page.wait_for_selector(".answer")
    before = page.locator(".lineage").bounding_box()
    node(page, 1, 1).click()
    page.wait_for_selector(WRITTEN)
    assert page.locator(".lineage").bounding_box() == before
    drawer = page.locator(".drawer").bounding_box()
    run = page.locator("main").bounding_box()
    assert run["x"] + run["width"] <= drawer["x"]


def test_code_in_a_reply_stands_in_columns_and_all_of_it_is_there(open_page, player):
    made = player.add(small_run())
    winner = made.run["winner"]
    for c in made.candidates:
        if (c["stage"], c["slot"]) == (winner["stage"], winner["slot"]):
            c["answer_text"] = FENCED
    page = open_page(f"#/runs/{made.id}")
    code = page.locator(".reply .code")
    code.wait_for()
    font = "e => getComputedStyle(e).fontFamily"
    assert code.text_content() == "for i in x:\n    print(i)"
    assert "monospace" in code.evaluate(font)
    page.get_by_role("button", name="As written").click()
    page.locator(".reply pre").first.wait_for()
    assert page.locator(".reply").text_content() == FENCED
    assert "monospace" in code.evaluate(font)
    assert "monospace" not in page.locator(".reply pre").first.evaluate(font)


def test_typing_a_question_is_not_talked_over(open_page, player):
    page = open_page("#/")
    page.wait_for_selector(".figures")
    page.evaluate(
        "window.said = 0; const all = [...document.querySelectorAll('[role=alert], [role=status],"
        " [aria-live]')]; for (const e of all) new MutationObserver(l => { said += l.length })"
        ".observe(e, { subtree: true, childList: true, characterData: true })"
    )
    before = page.locator(".figures").inner_text()
    page.fill("#question", "A long question. " * 40)
    until(page, "t => document.querySelector('.figures').innerText !== t", before)
    assert page.evaluate("said") == 0


def test_two_runs_are_compared_in_words_and_in_money(open_page, player):
    a, b = player.add(good_run()), player.add(hard_run())
    page = open_page("#/")
    page.get_by_text("Advanced").click()
    page.fill("#price-output", "2")
    page.goto(f"{player.url}/#/compare/{a.id}/{b.id}")
    page.wait_for_selector(".diff")
    told = page.locator(".compare .story-text").inner_text()
    tokens, seconds = (
        f"{b.run['run'][name] / a.run['run'][name]:.2f}x"
        if name == "elapsed_s"
        else f"{b.run['run'][name]['generated'] / a.run['run'][name]['generated']:.2f}x"
        for name in ("usage", "elapsed_s")
    )
    assert told.startswith("Both answer 84. In the last stage 69% of run 1 and 92% of run 2 agree")
    assert f"generated {tokens} the tokens of run 1 and took {seconds} its time" in told
    cost = page.get_by_role("row", name="Cost at your prices").inner_text()
    assert f"${a.run['run']['usage']['generated'] * 2 / 1e6:.3f}" in cost


def test_questions_that_only_begin_alike_are_told_to_differ(open_page, player):
    a, b = player.add(small_run("run-a")), player.add(small_run("run-b"))
    b.run["question"] = [{"role": "user", "content": f"{a.run['question'][0]['content']} Or not?"}]
    page = open_page(f"#/compare/{a.id}/{b.id}")
    page.get_by_text("The questions differ.").wait_for()
