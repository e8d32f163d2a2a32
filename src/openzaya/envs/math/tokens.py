r"""Answer text to tokens: a subset of LaTeX and the plain notation that models write.

Digits are the ten ASCII ones. A fixed table translates typographic signs (a real minus, a root
sign, Greek letters); any other character beyond ASCII makes the answer unreadable, full-width
digits and superscripts among them. Sizing and spacing commands vanish here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from openzaya.envs.math.limits import MAX_ANSWER_CHARS, MAX_DIGITS, TooLarge, Unreadable

TokenKind = Literal["number", "repeating", "word", "command", "symbol", "text", "begin", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token and where it starts."""

    kind: TokenKind
    text: str
    start: int
    spaced: bool = False
    """True when white space stands before it."""
    is_styled: bool = False
    r"""True for what stands in \text{...} or the like."""


SIGNS = {
    "\u2212": "-",
    "\u2013": "-",
    "\u00d7": "*",
    "\u00b7": "*",
    "\u22c5": "*",
    "\u00f7": "/",
    "\u2044": "/",
    "\u03c0": "\\pi ",
    "\u221a": "\\sqrt ",
    "\u221e": "\\infty ",
    "\u222a": "\\cup ",
    "\u2208": "\\in ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u2248": "\\approx ",
    "\u00b1": "\\pm ",
    "\u00b0": "\\degree ",
    "\u2205": "\\emptyset ",
    "\u211d": "\\R ",
    "\u27e8": "\\langle ",
    "\u27e9": "\\rangle ",
    "\u03b1": "\\alpha ",
    "\u03b2": "\\beta ",
    "\u03b8": "\\theta ",
    "\u03bb": "\\lambda ",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
}
"""What a character beyond ASCII stands for; all others are refused."""

_GONE_COMMANDS = r"""
    \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \displaystyle \textstyle \limits
    \, \; \: \! \> \quad \qquad \( \) \[ \] \ensuremath \middle
    \boldsymbol \bm \bf \large \Large \LARGE \huge \Huge
"""
_GONE = frozenset(_GONE_COMMANDS.split()) | {"\\ "}
_TEXT = frozenset(
    [
        r"\text",
        r"\textbf",
        r"\textit",
        r"\textrm",
        r"\mbox",
        r"\mathrm",
        r"\mathbf",
        r"\mathit",
        r"\rm",
    ]
) | {
    "\\operatorname",
    "\\mathsf",
}
_TOKEN = re.compile(
    r"""(?P<space>[\s~$]+)
    |(?P<repeating>[0-9]*\.[0-9]*\\(?:(?:overline|bar)\{[0-9]{1,40}\}
        |(?:overline|bar|dot)\ ?(?:[0-9]|\{[0-9]\})))
    |(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?)
    |(?P<word>[A-Za-z]+)
    |(?P<command>\\[A-Za-z]+|\\.)
    |(?P<symbol><=|>=|!=|==|\*\*|[-+*/^_(){}\[\],;:=<>|!%&.'])""",
    re.ASCII | re.VERBOSE,
)
_KINDS: dict[str, TokenKind] = {
    "number": "number",
    "repeating": "repeating",
    "word": "word",
    "symbol": "symbol",
}
_GROUPED = r"(?<![0-9.])[1-9][0-9]{0,2}(?:(?:SEP)[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
_LATEX_GROUPS = r"\{,\}|\\,|,\\!\s*|\{,\}\\!|\\;"
_GROUPS = {
    False: re.compile(_GROUPED.replace("SEP", _LATEX_GROUPS)),
    True: re.compile(_GROUPED.replace("SEP", f",(?=[0-9])|{_LATEX_GROUPS}")),
}
_BRACED = re.compile(r"\s*\{([^{}]*)\}", re.ASCII)
_ROW_GAP = re.compile(r"\s*\[\s*-?[0-9.]+\s*(?:pt|em|ex|mm|cm)\s*\]")
"""The space that `\\\\[2pt]` puts between rows."""
_STYLED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:[,;:! ]|quad|qquad|left|right)|[$~{}]")


def translate(text: str) -> str:
    """Return the text in ASCII. Raises Unreadable for a character that is not in the table."""
    if not text.isascii():
        text = "".join(SIGNS.get(char, char) for char in text)
    for char in text:
        if not (" " <= char <= "~" or char in "\n\t\r"):
            raise Unreadable(f"the character U+{ord(char):04X} is not part of any answer")
    return text


def plain_text(text: str) -> str:
    """Return an answer in words without styling, on one line. Raises Unreadable and TooLarge."""
    if len(text) > MAX_ANSWER_CHARS:
        raise TooLarge(f"the answer has {len(text)} characters")
    text = translate(text)
    before = None
    while before != text:
        before, text = text, _STYLED.sub(r"\1", text)
    return " ".join(_SPACING.sub(" ", text).strip(" *`\"'").split()).rstrip(".").strip(" \"'")


def is_styled(text: str) -> bool:
    r"""Say whether a text is one `\text{...}` or the like and nothing else."""
    return _STYLED.fullmatch(text.strip()) is not None


def tokenize(text: str, thousands: bool = False) -> list[Token]:
    r"""Return the tokens of an answer.

    `thousands` reads 1,234 as one number; 1{,}234 and 1\,234 always are. Raises Unreadable and
    TooLarge.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise TooLarge(f"the answer has {len(text)} characters, more than {MAX_ANSWER_CHARS}")
    text = translate(text)
    num_digits = sum("0" <= char <= "9" for char in text)
    if num_digits > MAX_DIGITS:
        raise TooLarge(f"the answer has {num_digits} digits, more than {MAX_DIGITS}")
    tokens: list[Token] = []
    position, spaced = 0, False
    while position < len(text):
        token, position = _next(text, position, spaced, thousands)
        spaced = token is None
        if token is not None:
            tokens.append(token)
    return tokens


def _next(text: str, position: int, spaced: bool, thousands: bool) -> tuple[Token | None, int]:
    """Return the token at `position`, None for what vanishes, and where the next one starts."""
    grouped = _GROUPS[thousands].match(text, position)
    if grouped is not None:
        digits = re.sub(r"[^0-9.]", "", grouped[0])
        return Token("number", digits, position, spaced), grouped.end()
    match = _TOKEN.match(text, position)
    if match is None:
        raise Unreadable(f"{text[position : position + 12]!r} is not part of any answer")
    kind, word, end = match.lastgroup or "", match[0], match.end()
    if kind == "space":
        return None, end
    if kind == "command":
        return _command(text, word, position, end, spaced)
    return Token(_KINDS[kind], word, position, spaced), end


def _command(text: str, word: str, start: int, end: int, spaced: bool) -> tuple[Token | None, int]:
    """Return the token of a command that starts with a backslash."""
    if word in _GONE:
        if word in (r"\left", r"\right") and text[end : end + 1] == ".":
            end += 1
        return None, end
    if word in (r"\begin", r"\end"):
        return _environment(text, word, start, end, spaced)
    if word == r"\mathbb":
        braced = _BRACED.match(text, end)
        if braced is not None and braced[1].strip() == "R":
            return Token("command", r"\R", start, spaced), braced.end()
        raise Unreadable("of the sets of numbers only the real ones are read")
    if word in _TEXT:
        return _text(text, word, start, end, spaced)
    if word == r"\$":
        return Token("text", "$", start, spaced), end
    gap = _ROW_GAP.match(text, end) if word == r"\\" else None
    return Token("command", word, start, spaced), gap.end() if gap else end


def _text(text: str, word: str, start: int, end: int, spaced: bool) -> tuple[Token | None, int]:
    r"""Return the token of \text{...}, \mathrm{...}; mathematics in bold is just mathematics."""
    braced = _BRACED.match(text, end)
    if word.startswith(r"\math") and (braced is None or "\\" in braced[1]):
        return None, end
    if braced is None:
        raise Unreadable(f"{word} without simple text in braces")
    inner = " ".join(braced[1].replace("~", " ").split())
    kind: TokenKind = "word" if re.fullmatch("[A-Za-z]", inner) else "text"
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", inner):
        kind = "number"
    return (Token(kind, inner, start, spaced, True) if inner else None), braced.end()


def _environment(text: str, word: str, start: int, end: int, spaced: bool) -> tuple[Token, int]:
    """Return the token of \\begin{...} or \\end{...}; column specifications are skipped."""
    braced = _BRACED.match(text, end)
    if braced is None:
        raise Unreadable(f"{word} without a name")
    name, end = braced[1].strip(), braced.end()
    if word == r"\begin" and name == "array":
        columns = _BRACED.match(text, end)
        end = columns.end() if columns is not None else end
    return Token("begin" if word == r"\begin" else "end", name, start, spaced), end
