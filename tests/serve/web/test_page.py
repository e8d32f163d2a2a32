"""The page in a real Chromium, over a server that plays recorded runs."""

import json
import math
import re
from typing import Any

import pytest
from serve.web.browsing import WRITTEN, node, until, why_not
from serve.web.sample_runs import (
    HOSTILE,
    failed_run,
    fill_list,
    good_run,
    hard_run,
    hostile_run,
    large_run,
    small_run,
)

from openzaya.serve.web import standalone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]


def calls_with_an_answer(recording: Any) -> int:
    return sum(c["answer"] is not None for c in recording.candidates)


def test_a_finished_run_is_shown_whole_from_the_journal(open_page, player):
    made = player.add(hard_run())
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node")
    run = made.run["run"]
    assert page.locator(".answer").inner_text() == run["answer"]
    assert run["why"] in page.locator(".why").inner_text()
    assert page.locator(".graph .node").count() == len(made.candidates) == 48
    assert page.locator(".graph .node.filled").count() == calls_with_an_answer(made)
    assert page.locator(".graph .node.won").get_attribute("data-key") == "{stage}/{slot}".format(
        **made.run["winner"]
    )
    failed = sum(c["state"] == "failed" for c in made.candidates)
    retried = sum(c["attempts"] > 1 and c["state"] != "failed" for c in made.candidates)
    assert failed > 0
    assert retried > 0
    assert page.get_by_role("button", name=f"{failed} failed").is_visible()
    assert page.get_by_role("button", name=f"{retried} retried").is_visible()
    assert page.locator(".timeline .decode").count() >= len(made.candidates) - failed
    assert page.locator(".timeline .idle").count() > 10
    assert (
        f"{run['usage']['generated_by_stage'][0] / 1000:.1f}K"
        in page.locator("div.budget").inner_text()
    )
    assert player.last_ids == []


def test_the_bars_of_a_stage_count_its_answers(open_page, player):
    made = player.add(good_run())
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".stage-bar")
    bars = page.locator(".stage-bar")
    assert bars.count() == 3
    for stage in made.run["stages"]:
        spoken = bars.nth(stage["stage"]).get_attribute("aria-label")
        counts = sorted(map(int, re.findall(r"[A-Z] (\d+)", spoken)), reverse=True)
        assert counts == sorted(stage["answers"].values(), reverse=True)
        total = sum(counts)
        entropy = sum(n / total * math.log2(total / n) for n in counts)
        assert f"{len(stage['answers'])} distinct \u00b7 {entropy:.2f} bit" in spoken


def test_the_lines_into_a_trace_come_from_the_tails_that_it_read(open_page, player):
    made = player.add(small_run())
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node")
    lines = page.eval_on_selector_all(".edge", "e => e.map(x => x.getAttribute('d')).join('')")
    assert lines.count("M") == sum(len(c["parents"]) for c in made.candidates) == 8
    child = next(c for c in made.candidates if c["stage"] == 1)
    node(page, 1, child["slot"]).hover()
    page.wait_for_selector(".graph.dimmed")
    lit = page.eval_on_selector_all(".graph .node.on", "e => e.map(x => x.dataset.key)")
    assert sorted(lit) == sorted([f"1/{child['slot']}", *(f"0/{p}" for p in child["parents"])])
    tip = page.locator(".tip")
    assert f"slots {', '.join(map(str, child['parents']))}" in tip.inner_text()
    tail = " ".join(made.candidates[4]["tail"].split())[-40:]
    until(page, "t => document.querySelector('.tip').textContent.includes(t)", tail)


def test_a_live_run_grows_and_ends_as_the_journal_says(open_page, player):
    made = player.add(small_run(), told=0)
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node.planned")
    assert page.locator(".graph .node.planned").count() == 8
    player.tell(made.id, 9)
    page.wait_for_selector(".graph .node.running")
    page.wait_for_selector(".badge.live")
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert page.locator(".answer").inner_text() == made.run["run"]["answer"]
    until(page, "!document.querySelector('.graph .running, .graph .planned')")
    page.wait_for_selector(".graph .node.won")
    assert page.locator(".graph .node.filled").count() == calls_with_an_answer(made)
    assert page.locator(".badge.live").count() == 0


def test_a_torn_stream_goes_on_where_it_stopped(open_page, player):
    made = player.add(small_run(), told=12)
    player.breaks = 2
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node.running")
    while len(player.last_ids) < 3:
        page.wait_for_timeout(20)
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert player.last_ids == [None, "5", "10"]


def test_a_run_that_nobody_works_on_any_more_ends_as_interrupted(open_page, player):
    made = player.add(small_run(), told=12)
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".badge.live")
    player.gone.add(made.id)
    page.wait_for_selector(".badge:text('interrupted')")
    assert page.get_by_role("button", name="Cancel run").count() == 0
    assert page.locator(".connection").count() == 0
    asked = len(player.last_ids)
    page.wait_for_timeout(700)
    assert len(player.last_ids) == asked


def test_a_running_run_can_be_cancelled(open_page, player):
    made = player.add(small_run(), told=8)
    page = open_page(f"#/runs/{made.id}")
    page.get_by_role("button", name="Cancel run").click()
    page.wait_for_selector("button.danger")
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert player.cancelled == [made.id]
    assert page.get_by_role("button", name="Cancel run").count() == 0


def test_a_failed_run_says_why_and_shows_what_there_was(open_page, player):
    made = player.add(failed_run())
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node.failed")
    assert "closed the connection" in page.locator(".card.bad").inner_text()
    assert page.locator(".graph .node.failed").count() == 16
    node(page, 0, 3).click()
    page.wait_for_selector(".drawer .error-text")
    assert "UpstreamError" in page.locator(".drawer .error-text").inner_text()


def test_what_is_pressed_focused_or_lit_stays_so_while_a_live_run_is_drawn_anew(open_page, player):
    made = player.add(small_run(), told=0)
    page = open_page(f"#/runs/{made.id}/0/1")
    page.wait_for_selector(".drawer:not([hidden])")
    page.evaluate(
        "window.kept = ['.danger', '.drawer .icon'].map(s => document.querySelector(s));"
        "kept[1].focus()"
    )
    while page.locator(".class-row").count() == 0:
        player.tell(made.id, 1)
        page.wait_for_timeout(60)
    assert page.evaluate("kept.every(e => e.isConnected) && document.activeElement === kept[1]")
    page.keyboard.press("Escape")
    page.locator(".class-row").first.click()
    before = page.locator(".stage-bars").inner_text()
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert page.locator(".stage-bars").inner_text() != before
    assert page.locator(".class-row[aria-pressed=true]").count() == 1
    page.locator(".class-row[aria-pressed=true]").click()
    assert page.locator(".graph.dimmed, .panels [aria-pressed=true]").count() == 0


def test_a_call_that_has_written_is_not_shown_as_queued(open_page, player):
    made = small_run()
    for _, name, data in made.events:
        if name == "candidate" and data["state"] == "running":
            data["began_s"] = None  # as the gateway tells it
    first = next(i for i, event in enumerate(made.events) if event[1] == "progress")
    player.add(made, told=first + 1)
    slot = made.events[first][2]["slot"]
    page = open_page(f"#/runs/{made.id}")
    call = page.locator(f".timeline .call:has(title:text('slot {slot}:'))")
    call.locator(".wait").wait_for(state="detached")
    assert call.locator(".decode").count() == 1


def test_the_time_before_the_first_call_is_not_called_idle(open_page, player):
    made = small_run()
    for c in made.run["candidates"]:
        for name in ("queued_s", "began_s", "first_token_s", "ended_s"):
            c[name] += 1000
    made.run["run"]["elapsed_s"] += 1000
    player.add(made)
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".timeline .idle")
    begins = page.eval_on_selector_all(".timeline .idle", "e => e.map(x => x.getBBox().x)")
    calls = page.eval_on_selector_all(".timeline .decode", "e => e.map(x => x.getBBox().x)")
    assert min(begins) > min(calls)


def test_an_unknown_run_is_told_and_the_way_back_works(open_page, player):
    page = open_page("#/runs/nowhere", allow="404")
    page.wait_for_selector("[role=alert]")
    assert "no such run" in page.locator("[role=alert]").inner_text()
    page.get_by_role("link", name="Runs").click()
    page.wait_for_selector(".run-list")


def test_the_keyboard_walks_opens_and_returns(open_page, player):
    made = player.add(small_run(rounds=2))
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .node")
    focused = "document.activeElement.dataset.key"
    page.locator(".graph .node[tabindex='0']").focus()
    assert page.evaluate(focused) == "0/0"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert page.evaluate(focused) == "1/3"
    page.keyboard.press("Enter")
    page.wait_for_selector(".drawer:not([hidden])")
    assert page.locator(".drawer h2").inner_text() == "Stage 1, slot 3"
    page.keyboard.press("ArrowUp")
    until(page, "document.querySelector('.drawer h2').textContent === 'Stage 1, slot 2'")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.drawer h2').textContent === 'Stage 2, slot 2'")
    assert page.url.endswith("/2/2")
    page.keyboard.press("Escape")
    assert page.locator(".drawer").is_hidden()
    assert page.evaluate(focused) == "2/2"
    page.keyboard.press("r")
    page.wait_for_selector(".run-list")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").is_visible()


def test_the_drawer_shows_the_exact_prompt_text_and_tail(open_page, player):
    made = player.add(small_run())
    c = made.candidates[5]
    page = open_page(f"#/runs/{made.id}/1/1")
    page.wait_for_selector(WRITTEN)
    shown = lambda: page.locator(WRITTEN).text_content()  # noqa: E731
    assert shown() == c["tail"]
    page.get_by_role("tab", name="Prompt").click()
    assert shown() == f"[user]\n{c['prompt'][0]['content']}"
    page.keyboard.press("ArrowRight")
    assert shown() == c["thinking"]
    for parent in c["parents"]:
        assert page.locator(f".kin >> text=/^.+ {parent}$/").count() >= 1


def test_a_seed_of_63_bits_is_shown_to_its_last_digit(open_page, player):
    made = player.add(small_run())
    made.run["seed"] = seed = 8431063068274173071
    made.run["candidates"] = [{**c, "seed": seed - 2} for c in made.run["candidates"]]
    page = open_page(f"#/runs/{made.id}/1/1")
    page.wait_for_selector(WRITTEN)
    assert str(seed) in page.locator("div.health").inner_text()
    assert f"seed {seed - 2}" in page.locator(".drawer-head").inner_text()


def test_copy_gives_the_whole_text_as_it_is(open_page, player):
    made = player.add(hostile_run())
    page = open_page(f"#/runs/{made.id}/0/0", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector(WRITTEN)
    page.get_by_role("button", name="Copy", exact=True).click()
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == made.candidates[0]["tail"]


def test_hostile_text_stays_text(open_page, player):
    made = player.add(hostile_run())
    page = open_page(f"#/runs/{made.id}/1/0")
    page.wait_for_selector(WRITTEN)
    for tab in ("Prompt", "Thinking", "Reply", "Raw"):
        page.get_by_role("tab", name=tab).click()
    page.get_by_role("tab", name="Raw").click()
    assert HOSTILE in page.locator(".drawer pre").text_content()
    assert page.locator("main img, main script, body > img").count() == 0
    assert page.title() != "taken"
    shown = page.locator("main").inner_text()
    assert "\u202e" not in shown
    assert "U+202E" in shown


def test_what_cannot_be_seen_is_shown_by_number_but_not_where_a_script_needs_it(open_page, player):
    made = player.add(small_run())
    kept = "\u0645\u06cc\u200c\u0634\u0648\u062f \U0001f469\u200d\U0001f680 \u2764\ufe0f\tx\ny"
    made.candidates[0]["tail"] = f"{kept} 4\u200d a\u00adb \U000e0041 \u3164."
    page = open_page(f"#/runs/{made.id}/0/0")
    page.wait_for_selector(WRITTEN)
    number = "\u27e8U+{}\u27e9".format
    hidden = f" 4{number('200D')} a{number('00AD')}b {number('E0041')} {number('3164')}."
    assert page.locator(WRITTEN).text_content() == kept + hidden


def test_a_tail_of_a_megabyte_shows_both_ends_and_then_all(open_page, player):
    made = player.add(hostile_run())
    page = open_page(f"#/runs/{made.id}/0/0")
    page.wait_for_selector(".drawer .gap")
    page.keyboard.press("f")
    length = "[...document.querySelectorAll('.drawer pre')].map(p => p.textContent.length)"
    assert page.evaluate(length) == [12_000, 12_000]
    page.locator(".drawer .gap").click()
    until(page, "document.querySelectorAll('.drawer pre').length === 1")
    assert page.evaluate(length) == [1 << 20]


def test_asking_previews_sends_and_follows_the_run(open_page, player):
    made = player.add(small_run(), told=3)
    page = open_page("#/")
    page.fill("#question", "What is 6 times 14?")
    until(page, "document.querySelector('.cost').textContent.includes('1,179,648')")
    page.get_by_text("light", exact=True).click()
    until(page, "document.querySelector('.cost').textContent.includes('917,504')")
    page.get_by_text("Advanced").click()
    page.fill("#field-num_candidates", "8")
    page.fill("#field-answer_reserve_tokens", "2048")
    page.fill("#price-output", "2")
    until(page, "document.querySelector('.cost').textContent.includes('458,752')")
    assert "$0.918" in page.locator(".cost").inner_text()
    page.focus("#question")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**/#/runs/{made.id}")
    (asked,) = player.asked
    assert asked["ttc"] == {
        "preset": "light",
        "num_candidates": 8,
        "answer_reserve_tokens": 2048,
        "background": True,
    }
    assert asked["messages"] == [{"role": "user", "content": "What is 6 times 14?"}]
    player.tell(made.id)
    page.wait_for_selector(".answer")


def test_settings_that_differ_from_the_preset_come_first_and_the_usual_ones_are_folded(
    open_page, player
):
    run = player.add(hard_run())
    page = open_page(f"#/runs/{run.id}")
    box = page.locator("div.settings .facts")
    box.first.wait_for()
    panel = page.locator("div.settings")
    assert "2 settings differ from the preset light." in panel.inner_text()
    first = box.first.locator(".changed").all_inner_texts()
    assert [" ".join(text.split()) for text in first] == [
        "num candidates (N) 12 instead of 16",
        "rounds (T) 3 instead of 2",
    ]
    shown = set(panel.locator("dt:visible").all_inner_texts())
    assert shown == {
        "num candidates (N)", "rounds (T)", "tails per prompt (C)", "budget tokens (\u03b2)",
        "tail tokens (\u03c4)", "final budget tokens (F)",
    }  # fmt: skip
    summary = panel.locator("summary")
    number = len(run.run["config"]) - 6
    assert summary.inner_text() == f"{number} more settings as in the preset light"
    summary.focus()
    page.keyboard.press("Enter")
    assert panel.locator("dt:visible").count() == len(run.run["config"])
    page.keyboard.press("Enter")
    assert panel.locator("dt:visible").count() == 6
    good = player.add(good_run())
    page = open_page(f"#/runs/{good.id}")
    page.locator("div.settings .facts").first.wait_for()
    assert "All as in the preset 16k." in page.locator("div.settings").inner_text()
    assert page.locator("div.settings .changed").count() == 0


def test_settings_that_do_not_fit_are_refused_before_sending(open_page, player):
    page = open_page("#/", allow="400")
    page.fill("#question", "?")
    page.get_by_text("Advanced").click()
    page.fill("#field-tails_per_prompt", "17")
    page.wait_for_selector(".ask-side [role=alert]")
    assert "choose 1 <= C <= N" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="Send").is_disabled()
    page.fill("#field-tails_per_prompt", "16")
    page.wait_for_selector(".ask-side [role=alert]", state="hidden")
    assert page.get_by_role("button", name="Send").is_enabled()


def test_a_busy_server_is_told_and_the_question_is_kept(open_page, player):
    page = open_page("#/", allow="429")
    page.fill("#question", "Keep me")
    page.get_by_role("button", name="Send").click()
    until(page, "document.querySelector('.ask-side').textContent.includes('too many')")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="Ask").click()
    page.wait_for_selector("#question")
    assert page.input_value("#question") == "Keep me"


def test_a_server_with_a_key_is_asked_with_it(open_page, player):
    player.key = "sesame"
    made = player.add(small_run(), told=6)
    page = open_page(f"#/runs/{made.id}", allow="401")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server refused the key.")
    page.fill("#key", "sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(".graph .node")
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert page.evaluate("sessionStorage.getItem('openzaya.key')") == "sesame"
    assert page.evaluate("JSON.stringify(localStorage)").count("sesame") == 0


def test_the_list_filters_searches_and_pages(open_page, player):
    fill_list(player, 60)
    player.add(failed_run())
    page = open_page("#/runs")
    page.wait_for_selector("tbody tr")
    rows = page.locator("tbody tr")
    assert rows.count() == 50
    page.get_by_role("button", name="Load older runs").click()
    until(page, "document.querySelectorAll('tbody tr').length === 61")
    page.get_by_text("failed", exact=True).first.click()
    until(page, "document.querySelectorAll('tbody tr').length === 1")
    page.get_by_text("all", exact=True).click()
    until(page, "document.querySelectorAll('tbody tr').length === 50")
    page.fill("#search", "circle RADIUS")
    until(page, "document.querySelectorAll('tbody tr').length === 15")
    assert "15 matches among the newest 61 runs" in page.locator(".run-foot").inner_text()
    assert "q=circle" in page.url


def test_a_run_stands_in_the_list_once_however_often_older_ones_are_asked_for(open_page, player):
    fill_list(player, 60)
    page = open_page("#/runs")
    page.get_by_role("button", name="Load older runs").dblclick()
    until(page, "document.querySelectorAll('tbody tr').length >= 60")
    page.wait_for_timeout(300)
    assert page.locator("tbody tr").count() == 60


def test_the_address_of_a_search_finds_what_older_pages_hold(open_page, player):
    fill_list(player, 60)
    page = open_page("#/runs?q=run-59")
    page.wait_for_selector("tbody tr")
    assert page.locator("tbody tr").get_attribute("data-run") == "run-59"


def test_the_list_follows_runs_that_are_not_over(open_page, player):
    made = player.add(small_run(), told=3)
    page, running = open_page("#/runs"), open_page("#/runs?state=running")
    running.wait_for_selector("tbody .badge.live")
    page.get_by_role("checkbox").check()
    player.tell(made.id)
    page.wait_for_selector("tbody .badge.good")
    assert page.get_by_role("checkbox").is_checked()
    running.wait_for_selector(".empty")


def test_an_address_that_was_cut_is_told_and_not_a_blank_page(open_page, player):
    page = open_page("#/runs/%E0%A4", allow="404")
    page.wait_for_selector("[role=alert]")
    assert "no such run" in page.locator("[role=alert]").inner_text()


def test_two_runs_are_compared_side_by_side(open_page, player):
    a, b = player.add(good_run()), player.add(hard_run())
    page = open_page("#/runs")
    for made in (a, b):
        page.get_by_role("checkbox", name=f"Compare the run {made.id}").check()
    page.get_by_role("link", name="Compare the two").click()
    page.wait_for_selector(".diff")
    text = page.locator(".compare").inner_text()
    for wanted in ("16,384", "8,192", f"{a.run['run']['usage']['generated']:,}"):
        assert wanted in text
    ratio = b.run["run"]["usage"]["generated"] / a.run["run"]["usage"]["generated"]
    assert f"{ratio:.2f}x" in text
    assert "top p" not in text
    assert page.locator(".stage-bar").count() == 3 + 4
    letters = page.eval_on_selector_all(".answer-line .chip", "e => e.map(x => x.textContent)")
    assert letters[0] == letters[1]


@pytest.mark.parametrize("width", [360, 768])
@pytest.mark.parametrize("view", ["run", "list", "ask", "compare", "drawer"])
def test_a_narrow_screen_never_scrolls_sideways(open_page, player, width, view):
    a, b = player.add(hard_run()), player.add(hostile_run())
    player.add(large_run()) if view == "list" else None
    address = {
        "run": f"#/runs/{b.id}", "list": "#/runs", "ask": "#/",
        "compare": f"#/compare/{a.id}/{b.id}", "drawer": f"#/runs/{a.id}/1/1",
    }[view]  # fmt: skip
    page = open_page(address, viewport={"width": width, "height": 740})
    page.wait_for_selector("main > :not(:has(.loading))")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if view == "drawer":
        assert page.locator(".drawer").bounding_box()["width"] <= width


def test_the_theme_follows_the_system_until_it_is_chosen(open_page, player):
    page = open_page("#/runs", color_scheme="dark")
    page.wait_for_selector(".runs")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.keyboard.press("t")
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark))) < 200 < 600
    assert sum(map(int, re.findall(r"\d+", light))) > 600
    page.reload()
    page.wait_for_selector(".runs")
    assert page.evaluate(ground) == light


def test_288_candidates_are_drawn_and_lit_without_rebuilding_the_graph(open_page, player):
    made = player.add(large_run())
    page = open_page(f"#/runs/{made.id}")
    until(page, "document.querySelectorAll('.graph .node').length === 288")
    page.evaluate(
        "window.added = 0; new MutationObserver(l => { for (const m of l) added += "
        "m.addedNodes.length }).observe(document.querySelector('.graph .node').parentNode, "
        "{ childList: true, subtree: true })"
    )
    page.get_by_role("button", name="Winner's ancestry").or_(
        page.get_by_text("Winner\u2019s ancestry")
    ).click()
    lit = page.locator(".graph .node.on").count()
    assert 9 <= lit < 288
    node(page, 8, 31).hover()
    page.set_viewport_size({"width": 1240, "height": 800})
    until(page, "document.querySelector('.graph').clientWidth < 1230")
    page.wait_for_timeout(100)
    assert page.evaluate("added") == 0
    assert page.locator(".edge").count() <= 12


def test_a_run_saved_as_a_file_needs_no_server(open_page, player, tmp_path):
    made = small_run()
    path = tmp_path / "run.html"
    path.write_bytes(standalone(json.loads(json.dumps(made.run)), made.candidates))
    page = open_page(path.as_uri())
    page.wait_for_selector(".answer")
    assert page.locator(".graph .node").count() == 8
    node(page, 1, 2).click()
    page.wait_for_selector(WRITTEN)
    assert page.locator(WRITTEN).text_content() == made.candidates[6]["tail"]
    assert page.locator(".top nav a").count() == 0
    frame = tmp_path / "frame.html"
    frame.write_text('<iframe sandbox="allow-scripts" src="run.html"></iframe>')
    page = open_page(frame.as_uri())
    page.frame_locator("iframe").locator(".answer").wait_for()
