"""Taking a reply apart into what was thought and what was answered."""

from dataclasses import dataclass

from openzaya.text.markers import IM_END, THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True, slots=True)
class Thought:
    """A reply in two parts."""

    reasoning: str
    """All think blocks, joined by an empty line; markers and outer newlines removed."""
    answer: str
    """Everything outside the blocks, joined likewise; empty while a block is still open."""
    closed: bool
    """False when the text ends inside a think block."""


def split_thinking(text: str, started_in_think: bool = True, *, stops: bool = True) -> Thought:
    """Split what a model generated into reasoning and answer.

    `started_in_think` says that the prompt already opened the block; an opening marker that the
    model repeats is harmless, and a reply whose first marker is a closing one began inside a block
    whatever the prompt said. Further blocks (between tool calls) join the first. Inside a block an
    opening marker, outside a block a closing one is dropped. The reply ends at the first stop
    token, unless it is not `stops`: the text was not generated, and may write about the token.
    """
    before, closing, after = text.rpartition(THINK_CLOSE)
    if closing and "<" not in before and "<" not in after:  # as a rule: no other marker at all
        return Thought(before.strip("\n"), after.strip("\n"), closed=True)
    text = text.partition(IM_END)[0] if stops else text
    parts = _parts(text)
    inside = started_in_think or (len(parts) > 1 and parts[1] == THINK_CLOSE)
    reasoning: list[str] = []
    answer: list[str] = []
    for index, part in enumerate(parts):
        if index % 2:
            inside = part == THINK_OPEN
        elif part.strip("\n"):
            (reasoning if inside else answer).append(part.strip("\n"))
    return Thought(
        reasoning="\n\n".join(reasoning),
        answer="" if inside else "\n\n".join(answer),
        closed=not inside,
    )


def _parts(text: str) -> list[str]:
    """Return what stands between markers and the markers, in turns; a regex takes longer."""
    parts: list[str] = []
    for closed in text.split(THINK_CLOSE):
        for opened in closed.split(THINK_OPEN):
            parts += (opened, THINK_OPEN)
        parts[-1] = THINK_CLOSE
    return parts[:-1]
