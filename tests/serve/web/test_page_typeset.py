"""Formulas, tables and lists of replies are shown as they are meant, or as they were written."""

import json
from typing import Any

import pytest
from serve.web.browsing import WRITTEN, until, why_not
from serve.web.play import Player
from serve.web.recorded_runs import PretendModel, Recording, record
from serve.web.sample_runs import PROOF, good_run, small_run

from openzaya.serve.web import standalone
from openzaya.ttc import MarkovianRSAConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]
MATHML = "http://www.w3.org/1998/Math/MathML"
MANY = "\n\n".join(f"Line {i} has $\\frac{{{i}}}{{7}} + x_{{{i}}}$." for i in range(400))
TEX_ANSWERS = ("\\frac{3}{4}", "x^2+\\sqrt{2}")


def winner_of(made: Recording) -> dict[str, Any]:
    winner = made.run["winner"]
    return next(
        c for c in made.candidates if (c["stage"], c["slot"]) == (winner["stage"], winner["slot"])
    )


def replying(player: Player, text: str) -> Recording:
    """Add a run whose winner replied so."""
    made = player.add(small_run())
    winner_of(made)["answer_text"] = text
    return made


def tex_run() -> Recording:
    """A run whose answers are TeX without dollars."""
    config = MarkovianRSAConfig(
        num_candidates=4, tails_per_prompt=2, rounds=1, budget_tokens=9_000, tail_tokens=900
    )
    model = PretendModel(right=TEX_ANSWERS[0], wrong=TEX_ANSWERS[1:], skill=0.6)
    return record("run-tex", config, model, preset="", age_s=60)


def test_a_reply_shows_formulas_tables_and_headings(open_page, player):
    made = player.add(good_run())
    page = open_page(f"#/runs/{made.id}")
    reply = page.locator(".reply")
    reply.locator("table").wait_for()
    kinds = reply.locator("math").evaluate_all("e => e.map(x => x.namespaceURI)")
    assert len(kinds) == 10
    assert set(kinds) == {MATHML}
    assert reply.locator("mfrac").count() == 4
    assert reply.locator("h5").all_inner_texts() == ["Counting", "Check by the largest number"]
    assert reply.locator("strong").inner_text() == "subsets of three"
    assert reply.locator("tr").count() == 3
    assert reply.locator("tr").last.inner_text().split() == [
        "sum", "so", "far", "1", "4", "10", "20", "35", "56", "84",
    ]  # fmt: skip
    assert not set("$\\#*") & set(reply.inner_text())


def test_lists_quotes_and_code_keep_their_order_and_their_words(open_page, player):
    text = (
        "1. one\n   - inner `a*b`\n     goes on\n2. two\n\n   \\[x\n   + y\\]\n5. five\n\n"
        "> said *so*\n\n~~~\n| no | table |\n~~~\n\n- - -\n"
        "<b>text</b> [link](https://example.org) 2*3*4 a_b_c"
    )
    page = open_page(f"#/runs/{replying(player, text).id}")
    reply = page.locator(".reply")
    reply.locator("ol").wait_for()
    assert reply.locator("ol > li").evaluate_all("e => e.map(x => x.value)") == [1, 2, 5]
    assert reply.locator("ol > li ul > li").inner_text() == "inner a*b\ngoes on"
    assert reply.locator("ol > li").nth(1).locator("math[display=block] mo").text_content() == "+"
    assert reply.locator("blockquote em").inner_text() == "so"
    assert reply.locator("pre.code").inner_text() == "| no | table |"
    assert reply.locator("hr").count() == 1
    last = "<b>text</b> [link](https://example.org) 2*3*4 a_b_c"
    assert reply.locator("p").last.inner_text() == last
    assert reply.locator("table, a, b, em em").count() == 0


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "$5,$6 or 7$ and $8",
        "from $ 5 to 6 $ a piece",
        "$5 each or 6$ in all",
        "an open $x + 1",
        "an open \\(x and \\[y",
        "a box \\boxed{of which",
        "$\\frac{1}{$",
        "$\\undefined x$",
        "$x + \\ref{y}$",
        "C:\\new\\text $$ and $$ nothing",
    ],
)
def test_what_is_no_formula_stays_as_written(open_page, player, text):
    made = replying(player, text + "\n\nBut $x$.")
    page = open_page(f"#/runs/{made.id}")
    page.locator(".reply math").wait_for()
    assert page.locator(".reply p").first.text_content() == text
    assert page.locator(".reply math").count() == 1


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("$x$, \\(y\\), so \\[z\\] and $$w$$.", ["x", "y", "z", "w"]),
        ("\\$5 is $5a$ and `$b$`", ["5a"]),
        ("So \\boxed{84} or \\boxed{\\text{no}}", ["84", "no"]),
        ("\\begin{align*}\na &= b \\\\\n+ c &= d\n\\end{align*}", ["a=b+c=d"]),
        ("$\\begin{align}a&=b\\end{align}$", ["a=b"]),
        ("**bold $a*b$** and *it $c^*$*", ["a\u2217b", "c\u2217"]),
        ("| a | b |\n|---|---|\n| $|x|$ | `|` $y$ |", ["|x|", "y"]),
    ],
)
def test_every_way_to_write_a_formula_is_known(open_page, player, text, formulas):
    page = open_page(f"#/runs/{replying(player, text).id}")
    page.locator(".reply math").first.wait_for()
    shown = page.locator(".reply math").evaluate_all("e => e.map(x => x.textContent)")
    assert ["".join(text.split()) for text in shown] == formulas


def test_answers_and_questions_are_typeset_wherever_they_stand(open_page, player):
    made = player.add(tex_run())
    page = open_page(f"#/runs/{made.id}")
    for place in (".head h1", ".answer", ".answer-text"):
        assert page.locator(f"{place} math").count() > 0, place
    assert page.locator(".answer mfrac").text_content() == "34"
    page.locator(".actions button").last.click()
    page.locator(".drawer-answer mfrac").wait_for()
    page.goto(f"{player.url}/#/runs")
    page.locator(".cell-answer mfrac").wait_for()
    assert page.locator(".cell-question math").count() > 0
    other = player.add(small_run())
    page.goto(f"{player.url}/#/compare/{made.id}/{other.id}")
    page.locator(".answer mfrac").wait_for()
    assert page.locator(".compare-question math").count() > 0


def test_one_key_or_button_shows_the_text_as_written_and_is_remembered(open_page, player):
    made = player.add(good_run())
    winner = winner_of(made)
    page = open_page(f"#/runs/{made.id}")
    page.locator(".reply math").first.wait_for()
    page.locator(".reasoning summary").click()
    page.locator(".reasoning .typeset").first.wait_for()
    page.keyboard.press("f")
    page.locator(".reply > pre").wait_for()
    assert page.locator(".reply").text_content() == winner["answer_text"] == PROOF
    assert page.locator("main math").count() == 0
    assert page.locator("h1").inner_text() == made.run["question"][0]["content"]
    page.locator(".reasoning pre").first.wait_for()
    page.reload()
    page.locator(".reply > pre").wait_for()
    button = page.locator(".head .as-written")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    page.locator(".reply math").first.wait_for()
    assert button.get_attribute("aria-pressed") == "false"
    assert button.evaluate("e => e === document.activeElement")


def test_a_prompt_and_the_raw_text_are_always_as_written(open_page, player):
    made = player.add(good_run())
    winner = winner_of(made)
    page = open_page(f"#/runs/{made.id}/{winner['stage']}/{winner['slot']}")
    shown = page.locator(WRITTEN)
    shown.locator("math").first.wait_for()
    page.get_by_role("tab", name="Reply").click()
    assert shown.locator("table").count() == 1
    for tab, text in (
        ("Raw", winner["text"]),
        ("Prompt", f"[user]\n{winner['prompt'][0]['content']}"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.locator(".drawer-body pre").wait_for()
        assert shown.text_content() == text
        assert page.locator(".drawer .as-written").count() == 0
    page.get_by_role("tab", name="Tail").click()
    page.locator(".drawer .as-written").click()
    page.locator(".drawer-body pre").wait_for()
    assert shown.text_content() == winner["tail"]


def test_only_formulas_that_are_about_to_be_seen_are_typeset(open_page, player):
    text = MANY[:23_000]
    page = open_page(f"#/runs/{replying(player, text).id}")
    page.locator(".reply math").first.wait_for()
    page.wait_for_timeout(300)
    all_of_them = text.count("$") // 2
    assert page.locator(".reply .tex").count() == all_of_them
    assert page.locator(".reply math").count() < all_of_them / 2
    page.locator(".reply").evaluate("e => e.scrollTo(0, e.scrollHeight)")
    page.locator(".reply p").last.locator("mfrac").wait_for()


def test_another_part_of_a_trace_has_its_own_formulas(open_page, player):
    made = player.add(small_run())
    made.candidates[0].update(tail=MANY[:23_000], answer_text=MANY[:23_000].replace("{7}", "{9}"))
    page = open_page(f"#/runs/{made.id}/0/0")
    page.locator(".drawer-body math").first.wait_for()
    page.get_by_role("tab", name="Reply").click()
    page.locator(".drawer-body").evaluate("e => e.scrollTo(0, e.scrollHeight)")
    last = page.locator(".drawer-body mfrac").last
    page.locator(".drawer-body p").last.locator("mfrac").wait_for()
    assert last.locator("mn").last.text_content() == "9"


def test_a_formula_is_not_made_again_when_a_live_run_is_drawn_anew(open_page, player):
    made = player.add(tex_run(), told=0)
    page = open_page(f"#/runs/{made.id}")
    page.locator("h1 math").first.wait_for()
    while page.locator(".class-row math").count() == 0:
        player.tell(made.id, 1)
        page.wait_for_timeout(60)
    page.evaluate("window.kept = [...document.querySelectorAll('h1 math, .class-row math')]")
    before = page.locator(".stage-bars").inner_text()
    player.tell(made.id)
    page.wait_for_selector(".answer")
    assert page.locator(".stage-bars").inner_text() != before
    assert page.evaluate("kept.filter(e => e.isConnected && e.childElementCount).length") > 2


def test_a_long_text_is_parted_between_lines_and_then_shown_whole(open_page, player):
    made = replying(player, MANY + "\n\n" + MANY)
    page = open_page(f"#/runs/{made.id}")
    gap = page.locator(".reply .gap")
    gap.wait_for()
    lines = page.locator(".reply p").all_text_contents()
    assert all(line.startswith("Line ") and line.endswith(".") for line in lines)
    told = int("".join(filter(str.isdigit, gap.inner_text())))
    gap.click()
    until(page, "document.querySelectorAll('.reply .typeset').length === 1")
    assert page.locator(".reply p").count() == 800
    assert 0 < told < len(MANY) * 2 - 20_000


@pytest.mark.parametrize("width", [320, 360])
def test_wide_formulas_and_tables_scroll_in_their_own_box(open_page, player, width):
    wide = " + ".join(f"\\frac{{a_{{{i}}} + b}}{{c^{{{i}}}}}" for i in range(40))
    row = " | ".join(f"column{i}" for i in range(30))
    formulas = f"$${wide}$$\n\nand ${wide}$ and $\\frac{{{wide}}}{{2}}$"
    text = f"{formulas}\n\n|{row}|\n|{'---|' * 30}\n|{row}|\n"
    made = replying(player, text)
    winner = winner_of(made)
    for address in (f"#/runs/{made.id}", f"#/runs/{made.id}/{winner['stage']}/{winner['slot']}"):
        page = open_page(address, viewport={"width": width, "height": 740})
        page.locator(".reply table").wait_for()
        if address.endswith(str(winner["slot"])):
            page.get_by_role("tab", name="Reply").click()
            page.locator(".drawer-body table").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = page.locator(":is(.reply, .drawer-body) :is(.tex.display, .scroll-x)")
        over = boxes.evaluate_all("e => e.map(x => x.scrollWidth - x.clientWidth)")
        assert min(over) > 100
        for whole in (".reply", ".drawer-body"):
            assert page.locator(whole).evaluate("e => e.scrollWidth <= e.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_formulas_have_the_colour_of_the_text_around_them(open_page, player, scheme):
    text = "$x \\color{black}y \\textcolor{white}{z} \\colorbox{black}{w}$"
    page = open_page(f"#/runs/{replying(player, text).id}", color_scheme=scheme)
    page.locator(".reply math").wait_for()
    ink = "e => getComputedStyle(e).color"
    parts = page.locator(".reply math *")
    assert set(parts.evaluate_all("e => e.map(x => getComputedStyle(x).color)")) == {
        page.locator(".reply p").evaluate(ink)
    }
    grounds = "e => e.map(x => getComputedStyle(x).backgroundColor)"
    assert set(parts.evaluate_all(grounds)) == {"rgba(0, 0, 0, 0)"}


def test_a_run_saved_as_a_file_has_its_formulas(open_page, tmp_path):
    made = good_run()
    path = tmp_path / "run.html"
    path.write_bytes(standalone(json.loads(json.dumps(made.run)), made.candidates))
    page = open_page(path.as_uri())
    page.locator(".reply table").wait_for()
    assert page.locator(".reply math").count() == 10
