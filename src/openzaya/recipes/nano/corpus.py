"""Documents of the nano stages: facts, traces and aggregation examples from the teachers."""

from dataclasses import dataclass, field

import numpy as np

from openzaya.core.seeding import stream
from openzaya.envs.base import Teacher
from openzaya.envs.teaching import AggregationStyle, aggregation, facts, trace
from openzaya.recipes.nano.tasks import draw_training
from openzaya.text.chat import ChatTemplate
from openzaya.text.document import Document, text_document
from openzaya.text.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """How much of which source to write, before trimming and packing."""

    trace_tokens: int
    """Tokens of worked problems (the paper's long-CoT)."""
    fact_tokens: int = 0
    """Tokens of single-digit facts (the paper's web text)."""
    aggregation_tokens: int = 0
    """Tokens of aggregation examples."""
    hard_share: float = 0.5
    """Share of problems from the harder level."""
    max_patience: int = 10
    """Searches give up after 2..max_patience tries, so some traces end without a hit."""
    style: AggregationStyle = field(default_factory=AggregationStyle)
    """How candidates in aggregation examples look."""


class Writer:
    """Writes the documents of one stage; every document is a function of (seed, source, index)."""

    def __init__(
        self, tokenizer: TextTokenizer, chat: ChatTemplate, config: CorpusConfig, seed: int
    ) -> None:
        """Keep what every document needs."""
        self.tokenizer = tokenizer
        self.chat = chat
        self.config = config
        self.seed = seed

    def fact(self, index: int) -> Document:
        """Return one line of facts as plain text."""
        line = facts(stream(self.seed, "facts", index), 12)
        return text_document(self.tokenizer.encode(line), "facts")

    def trace(self, index: int) -> Document:
        """Return one worked problem."""
        rng = stream(self.seed, "traces", index)
        item = draw_training(rng, self.config.hard_share)
        teacher = Teacher(patience=rng.randint(2, self.config.max_patience))
        messages = trace(item.env, item.problem, rng, teacher)
        return self.chat.encode_turns(messages, self.tokenizer, source=item.env.name)

    def aggregation(self, index: int) -> Document:
        """Return one aggregation example."""
        rng = stream(self.seed, "aggregation", index)
        item = draw_training(rng, self.config.hard_share)
        messages = aggregation(item.env, item.problem, rng, self.config.style)
        return self.chat.encode_turns(messages, self.tokenizer, source="aggregation")


def write_corpus(writer: Writer) -> list[Document]:
    """Return the stage's documents: each source until it has its tokens."""
    config = writer.config
    plan = (
        (writer.fact, config.fact_tokens),
        (writer.trace, config.trace_tokens),
        (writer.aggregation, config.aggregation_tokens),
    )
    documents: list[Document] = []
    for write, wanted in plan:
        written = index = 0
        while written < wanted:
            document = write(index)
            documents.append(document)
            written += int(np.size(document.tokens))
            index += 1
    return documents
