"""The page when its server, the network or its own machine is away for a while."""

import re

import pytest
from serve.web.browsing import LIMIT_MS, why_not
from serve.web.sample_runs import good_run, small_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]


def test_sending_is_possible_again_by_itself_when_the_server_is_back(open_page, player):
    page = open_page("#/", allow="503")
    page.wait_for_selector(".figures")
    send = page.get_by_role("button", name="Send")
    player.is_away = True
    page.fill("#question", "Is anybody there?")
    told = page.get_by_role("alert")
    told.filter(has_text="the server is down").wait_for()
    assert "asks again by itself" in told.inner_text()
    assert send.is_disabled()
    player.is_away = False
    told.wait_for(state="hidden")
    assert send.is_enabled()
    assert page.locator(".figures").is_visible()


def test_the_list_stays_while_the_server_is_away_and_goes_on_when_it_is_back(open_page, player):
    made = player.add(small_run(), told=3)
    page = open_page("#/runs", allow="503")
    page.wait_for_selector("tbody .badge.live")
    player.is_away = True
    page.get_by_text("Not up to date: the server is down").wait_for()
    assert page.locator("tbody tr").count() == 1
    player.is_away = False
    player.tell(made.id)
    page.wait_for_selector("tbody .badge.good")
    assert page.get_by_text("Not up to date").count() == 0


def test_a_connection_that_says_nothing_any_more_is_made_anew(open_page, player):
    made = player.add(small_run(), told=12)
    page = open_page("#/")
    page.clock.install()
    page.goto(f"{player.url}/#/runs/{made.id}")
    page.wait_for_selector(".graph .node.running")
    assert player.last_ids == [None]
    page.clock.fast_forward(60_000)
    for _ in range(LIMIT_MS // 20):
        if len(player.last_ids) == 2:
            break
        page.wait_for_timeout(20)
    assert player.last_ids == [None, "12"]
    player.tell(made.id)
    page.wait_for_selector(".answer")


def test_the_clock_of_a_live_run_does_not_begin_again_with_its_page(open_page, player):
    made = player.add(good_run(), told=120)
    for _, _, data in made.events[:120]:
        if "stage" in data:  # as in a first stage of which nothing has ended
            data["began_s"] = data["first_token_s"] = data["ended_s"] = None
    elapsed = player.detail(made.id)["run"]["elapsed_s"]
    assert elapsed > 60
    page = open_page(f"#/runs/{made.id}")
    page.wait_for_selector(".graph .arc")
    shown = page.locator(".tile b").first.inner_text()
    minutes, seconds = re.fullmatch(r"(?:(\d+) min ?)?(?:(\d+)(?:\.\d)? s)?", shown).groups()
    assert int(minutes or 0) * 60 + int(seconds or 0) >= elapsed - 1


def test_a_run_that_was_interrupted_before_its_answer_says_so_and_how_it_goes_on(open_page, player):
    made = player.add(small_run(), told=12)
    player.gone.add(made.id)
    page = open_page(f"#/runs/{made.id}")
    card = page.locator(".verdict")
    card.get_by_text("interrupted before it chose an answer").wait_for()
    assert f"openzaya runs resume {made.id}" in card.inner_text()
    assert "No answer could be read" not in card.inner_text()
