"""Replies that try to break out of the page, to paint over it or to stop it."""

from typing import Any

import pytest
from serve.web.browsing import until, why_not
from serve.web.play import Player
from serve.web.recorded_runs import Recording
from serve.web.sample_runs import TAKE, small_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is here"),
]
IMAGE = f'<img src="//elsewhere/x" onerror="{TAKE}">'
PAYLOADS = [
    IMAGE,
    f"</script><script>{TAKE}</script><svg onload={TAKE}><style>*{{color:red}}</style>",
    f"[here](javascript:{TAKE}) ![there](//elsewhere/x) <//elsewhere/x>",
    f"# {IMAGE}\n\n- {IMAGE}\n\n> {IMAGE}\n\n```{IMAGE}\n{IMAGE}\n```\n\n`{IMAGE}` **{IMAGE}**",
    f"| {IMAGE} | b |\n|---|---|\n| {IMAGE} | $\\text{{{IMAGE}}}$ |",
    rf"$\href{{javascript:{TAKE}}}{{x}}$ $\url{{//elsewhere/x}}$",
    r"$\includegraphics[height=9em]{//elsewhere/x}$",
    r"$\htmlData{a=b}{x}$ $\data{a=b}{x}$ $\class{card}{x}$ $\id{main}{x}$ $\cssId{main}{x}$",
    r"$\style{position:fixed;inset:0;background:url(//elsewhere/x)}{x}$",
    r"$\color{url(//elsewhere/x)}x$ $\colorbox{url(//elsewhere/x)}{x}$",
    r"$$\label{main} x \ref{main} \tag{$y$}$$",
    rf"$x$$\text{{{IMAGE}}}$ \boxed{{{IMAGE}}} \begin{{img}}{IMAGE}\end{{img}}",
    r"$\def\x{y}\x$ $\gdef\frac{z}$ $\newcommand{\y}{z}\y$ $\let\frac=\sqrt$",
    r"$\sideset{_a}{^b}\sum \pmb{x} \cancel{x} \rlap{x} \phase{x} \cancelto{0}{x}$",
]
HTML = (
    "blockquote code div em h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul "
    "bdi button"
)
MATHML = (
    "math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow "
    "mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none"
)


def nested(opening: str, times: int, inside: str, closing: str = "}") -> str:
    return opening * times + inside + closing * times


LARGE = {
    "braces": f"${nested('{', 3_000, 'x')}$",
    "many_braces": f"$${nested('{', 1_400, 'x')}$$",
    "fractions": "$" + nested(r"\frac{1}{", 200, "x") + "$",
    "short_fractions": "$" + r"\frac1" * 700 + "x$",
    "roots": "$" + nested(r"\sqrt{", 29, "x") + "$",
    "sized": "$" + nested(r"\left(", 29, "x", r"\right)") + "$",
    "accents": "$" + nested(r"\widehat{", 29, "x") + "$",
    "powers": "$" + nested("x^{", 29, "x") + "$",
    "matrices": "$$" + nested(r"\begin{matrix}a&", 20, "x", r"\end{matrix}") + "$$",
    "bomb": "$" + r"\def\a{xxxxxxxx}" + r"\def\b{\a\a\a\a}" * 20 + r"\b" * 200 + "$",
    "wide": "$" + "x+" * 1_400 + "x$",
    "dollars": "$" * 10_000,
    "spaced_dollars": "$ " * 10_000,
    "formulas": "$x$ " * 5_900,
    "backslashes": "\\" * 10_000 + "(" * 10_000,
    "openings": r"\(\[\boxed{" * 2_000,
    "lines_of_openings": "\\[x\n" * 5_000,
    "stars": "*a **b " * 3_000 + "c* d** " * 200,
    "ticks": "".join("`" * (i % 40) + "a" for i in range(1_000)),
    "quotes": ">" * 20_000 + " x",
    "lists": "\n".join(" " * i + "- x" for i in range(200)),
    "bars": "|" * 11_000 + "\n" + "|-" * 6_000 + "|",
    "rows": "|a|b|\n|-|-|\n" + "|$x$|y|\n" * 2_600,
    "dashes": "- " * 10_000 + "x",
    "megabyte": "so $x^2 + y_1$ and **this**\n" * 40_000,
    "megabyte_line": "$x^2$ *a* `b` " * 80_000,
}


def replying(player: Player, text: str) -> Recording:
    """Add a run whose winner replied, thought and ended so, and in which all else says so too."""
    made = player.add(small_run())
    made.run["question"] = [{"role": "user", "content": text}]
    made.run["run"].update(question=text[:200], answer=f"{text} so")
    made.run["candidates"] = [
        {**c, "answer": c["answer"] and f"{text} so"} for c in made.run["candidates"]
    ]
    for c in made.candidates:
        c.update(answer_text=text, thinking=text, tail=text, text=text)
    return made


def parts_of(page: Any, selector: str) -> tuple[set[str], set[str], int]:
    """Return names of elements, their attributes, and how deep they stand, of what was written."""
    tags, attributes, depth = page.evaluate(
        """selector => {
            const told = [...document.querySelectorAll(selector)];
            const found = told.flatMap(e => [...e.querySelectorAll('*')]);
            const depth = e => { let n = 0; for (; e; e = e.parentElement) n += 1; return n; };
            return [found.map(e => e.localName), found.flatMap(e => e.getAttributeNames()),
                    found.reduce((most, e) => Math.max(most, depth(e)), 0)];
        }""",
        selector,
    )
    return set(tags), set(attributes), depth


@pytest.mark.parametrize("text", PAYLOADS)
def test_a_reply_is_never_more_than_text_and_formulas(open_page, player, text):
    made = replying(player, text)
    asked: list[str] = []
    page = open_page(f"#/runs/{made.id}/0/0")
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.locator(".reply .typeset").wait_for()
    for tab in ("Thinking", "Reply"):
        page.get_by_role("tab", name=tab).click()
    page.locator(".drawer-body .typeset").wait_for()
    page.locator(".reasoning summary").click()
    page.locator(".reasoning .typeset").wait_for()
    tags, attributes, _ = parts_of(page, ".typeset, .answer, .answer-text, .drawer-answer, h1")
    assert tags <= {*HTML.split(), *MATHML.split()}
    assert not {name for name in attributes if name.startswith("on")}
    assert not attributes & {"href", "src", "id", "action", "data-a", "mathcolor", "mathbackground"}
    assert "url(" not in page.locator("main").evaluate(
        "e => [...e.querySelectorAll('.typeset *')].map(x => x.style.cssText).join()"
    )
    assert page.title() != "taken"
    assert [url for url in asked if "elsewhere" in url] == []
    assert page.locator("#main").count() == 1


@pytest.mark.parametrize("name", LARGE)
def test_a_text_that_is_made_to_be_slow_is_shown_and_the_page_goes_on(open_page, player, name):
    text = LARGE[name]
    made = replying(player, text)
    page = open_page(f"#/runs/{made.id}/0/0")
    page.locator(".reply .typeset").first.wait_for()
    page.get_by_role("tab", name="Reply").click()
    page.locator(".drawer-body .typeset").first.wait_for()
    page.locator(".drawer-body").evaluate("e => e.scrollTo(0, e.scrollHeight)")
    *_, depth = parts_of(page, ".typeset")
    assert depth < 120
    page.keyboard.press("f")
    until(page, "!document.querySelector('.typeset')")
    if len(text) < 24_000:
        assert page.locator(".drawer-body pre").text_content() == text.rstrip("\n") or "\n" in text


def test_what_a_formula_paints_stays_in_its_box(open_page, player):
    text = r"\kern-90em\rule{200em}{90em}\raisebox{90em}{over}\llap{x}"
    text = f"${text}$\n\n$${text}$$"
    made = replying(player, text)
    page = open_page(f"#/runs/{made.id}")
    page.locator(".reply math").first.wait_for(state="attached")
    outside = page.evaluate(
        """() => [...document.querySelectorAll('math, math *')].filter(e => {
            for (let box = e.parentElement; box !== document.body; box = box.parentElement) {
                const { position, overflowX } = getComputedStyle(box);
                if (overflowX === 'auto' || overflowX === 'hidden') return false;
            }
            return true;
        }).length"""
    )
    assert outside == 0
    header = page.evaluate("document.elementFromPoint(200, 20).closest('header, math')?.localName")
    assert header == "header"


def test_characters_that_hide_or_turn_are_shown_in_formulas_too(open_page, player):
    made = replying(player, '$a\u202e + b\u200b$ and $\\text{x\u2066}$ and $\\char"202E c$')
    page = open_page(f"#/runs/{made.id}")
    page.locator(".reply math").first.wait_for()
    shown = page.locator(".reply").text_content()
    for number in ("202E", "200B", "2066"):
        assert f"\u27e8U+{number}\u27e9" in shown
    assert not {"\u202e", "\u200b", "\u2066"} & set(page.locator("main").inner_text())
    assert '$\\char"202E c$' in shown
