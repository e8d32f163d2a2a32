"""Take the program out of a reply.

Policy:
- only the text after the closing think marker counts; a reply that never closes has no program
- a program stands in a fenced block (``` or ~~~, three or more) that is closed by a fence alike;
  a reply that is cut inside a block has no program
- blocks tagged with a language the problem takes come first; where there are none, untagged blocks
  count as the problem's first language; blocks tagged otherwise (text, json, bash) never count
- the last such block is the program
- blanks before a fence are cut from its lines, so a block inside a list works
"""

import re
from dataclasses import dataclass

from openzaya.text.think import split_thinking

MAX_CHARS = 65_536
"""Longer programs are refused: contests take 64 KiB."""
FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)")
TAGS = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "py3": "python",
    "cpp": "cpp",
    "c++": "cpp",
    "c++17": "cpp",
    "c++20": "cpp",
    "cc": "cpp",
}
"""What follows a fence, in lower case, and the sandbox's name for it."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """A program, or why there is none."""

    source: str = ""
    language: str = ""
    reason: str = ""
    """Not empty: no program, and this is why."""


@dataclass(frozen=True, slots=True)
class Block:
    """One closed fenced block."""

    tag: str
    """First word after the opening fence, in lower case."""
    text: str


def extract_program(
    reply: str, *, languages: tuple[str, ...] = ("python",), started_in_think: bool = True
) -> Extraction:
    """Return the program of a whole reply, thinking included."""
    thought = split_thinking(reply, started_in_think=started_in_think)
    if not thought.closed:
        return Extraction(reason="the reasoning was never closed, so there is no final answer")
    return program_of(thought.answer, languages=languages)


def program_of(answer: str, *, languages: tuple[str, ...] = ("python",)) -> Extraction:
    """Return the program of a final answer."""
    blocks, is_cut = blocks_of(answer)
    if is_cut:
        return Extraction(reason="the last code block is never closed")
    tagged = [block for block in blocks if TAGS.get(block.tag) in languages]
    found = tagged or [block for block in blocks if not block.tag]
    if not found:
        return Extraction(reason=f"there is no code block in {' or '.join(languages)}")
    block = found[-1]
    if not block.text.strip():
        return Extraction(reason="the code block is empty")
    if len(block.text) > MAX_CHARS:
        return Extraction(reason=f"the program has {len(block.text)} characters")
    return Extraction(block.text, TAGS.get(block.tag, languages[0]))


def blocks_of(text: str) -> tuple[list[Block], bool]:
    """Return the closed fenced blocks, and whether the text ends inside one more."""
    blocks: list[Block] = []
    fence, indent, tag = "", "", ""
    lines: list[str] = []
    for line in text.split("\n"):
        match = FENCE.fullmatch(line.rstrip())
        if not fence:
            if match:
                indent, fence = match[1], match[2]
                tag = match[3].strip().lower().split(" ")[0].strip("{}.")
                lines = []
        elif match and not match[3] and match[2][0] == fence[0] and len(match[2]) >= len(fence):
            blocks.append(Block(tag, "".join(f"{kept}\n" for kept in lines)))
            fence = ""
        else:
            lines.append(line.removeprefix(indent).rstrip("\r"))
    return blocks, bool(fence)
