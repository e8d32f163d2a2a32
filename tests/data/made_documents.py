"""Documents made of numbered tokens, so that every token says where it came from."""

from hypothesis import strategies as st

from openzaya.text.document import DocumentBuilder

CLOSE = 3
"""Tokens of a close marker."""


def conversation(turns, source="chat"):
    """Build user/assistant turns from (question, reasoning or None, answer) token counts."""
    builder = DocumentBuilder(source)
    number = 0

    def add(count, kind, role, loss):
        nonlocal number
        builder.add(range(number, number + count), kind, role, loss=loss)
        number += count

    for question, reasoning, answer in turns:
        add(1, "markup", "user", False)
        add(question, "text", "user", False)
        add(2, "markup", "assistant", False)
        for index, block in enumerate(reasoning or ()):
            if index:
                add(1, "markup", "tool", False)
                add(2, "tool", "tool", False)
                add(2, "markup", "assistant", False)
            add(block, "think", "assistant", True)
            add(CLOSE, "markup", "assistant", True)
        add(answer, "answer", "assistant", True)
        add(1, "markup", "assistant", True)
    return builder.build()


blocks = st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=3)
conversations = st.lists(
    st.tuples(st.integers(1, 5), blocks, st.integers(1, 5)), min_size=1, max_size=3
).map(conversation)


def tokens_of(document, *kinds):
    """Return the set of tokens in segments of these kinds."""
    return {
        int(token)
        for segment in document.segments
        if segment.kind in kinds
        for token in document.tokens[segment.start : segment.end]
    }


def any_turns(turns, source="chat"):
    """Build messages in any order from (role, think tokens, text tokens); replies have a text."""
    builder = DocumentBuilder(source)
    number = 0
    for role, think, text in turns:
        kind = {"assistant": "answer", "tool": "tool"}.get(role, "text")
        parts = [(2, "markup", False), (text, kind, False), (1, "markup", False)]
        if role == "assistant":
            close = CLOSE if think else 0
            parts = [(2, "markup", False), (think, "think", True), (close, "markup", True)]
            parts += [(text + 1, "answer", True), (1, "markup", True)]
        for count, part, loss in parts:
            builder.add(range(number, number + count), part, role, loss=loss)
            number += count
    return builder.build()


any_conversations = st.lists(
    st.tuples(
        st.sampled_from(("assistant", "assistant", "user", "tool", "system")),
        st.integers(0, 9),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=9,
).map(any_turns)
