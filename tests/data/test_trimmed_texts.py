"""From records to what is trained at every context: the text of each answer stays, exactly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.tiny_tokenizers import BARE, FRAGMENTED

from openzaya.data.ap_trim import ApTrimConfig, ap_trim
from openzaya.data.encoding import Encoder
from openzaya.data.sources import Row
from openzaya.text.chat import ChatTemplate

SAID = st.text(st.sampled_from("ab\u00e9\u732b\n <>|"), min_size=1, max_size=12).filter(str.strip)
MARKED = st.sampled_from(("<|im_end|>", "a<|im_end|>b", "\U0001f600", "e\u0301", "</th"))
TEXTS = SAID | MARKED
CALLS = st.sampled_from(([], [{"name": "f", "arguments": {"x": "\u00e9"}}]))
REPLIES = st.builds(
    lambda content, reasoning, calls: {
        "role": "assistant",
        "content": content,
        **({"reasoning_content": f"r{reasoning}"} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    },
    TEXTS,
    st.just("") | SAID,
    CALLS,
)
OTHERS = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(("user", "user", "tool", "system", "developer")),
    TEXTS | st.just("<think>a</think>"),
)
RECORDS = st.lists(OTHERS | REPLIES, max_size=6).flatmap(
    lambda turns: REPLIES.map(lambda last: {"messages": [*turns, last]})
)


def texts_of(document, tokenizer):
    """Return the text of the reasoning, and of everything else."""
    parts = {True: "", False: ""}
    for part in document.segments:
        ids = document.tokens[part.start : part.end].tolist()
        parts[part.kind == "think"] += tokenizer.decode(ids)
    return parts[True], parts[False]


@pytest.mark.parametrize("tokenizer", [BARE, FRAGMENTED])
@settings(deadline=None, max_examples=60)
@given(record=RECORDS, prior=st.sampled_from(("all", "oldest_first")))
def test_everything_but_reasoning_stays_and_fits_at_every_context(tokenizer, record, prior):
    encoder = Encoder(tokenizer, ChatTemplate.pinned())
    documents = list(encoder.documents([Row(0, record)], "chat"))
    assert len(documents) + len(encoder.bad) == 1
    for document in documents:
        thought, rest = texts_of(document, tokenizer)
        assert all(turn["content"].strip("\n") in rest for turn in record["messages"])
        fixed = sum(s.length for s in document.segments if s.kind != "think")
        for context in range(1, len(document) + 2):
            trimmed = ap_trim(document, context, ApTrimConfig(drop_prior=prior))
            if trimmed is None:
                assert fixed > context or (not thought and len(document) > context)
                continue
            kept = trimmed.apply(document)
            assert len(kept) == trimmed.length <= context
            assert texts_of(kept, tokenizer)[1] == rest
