"""Sample an engine on a list of items and judge every reply."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from openzaya.core.records import CUT, Judgement, Message
from openzaya.core.seeding import stream_seed
from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams
from openzaya.eval.protocol import Judge, Score, patient, score_of
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codec:
    """Text to prompt ids and back, for one model folder."""

    tokenizer: TextTokenizer
    chat: ChatTemplate

    def prompt(self, question: str) -> list[int]:
        """Return the prompt ids of a single-turn question with thinking on."""
        return self.chat.encode_prompt((Message("user", question),), self.tokenizer)

    def reply(self, token_ids: Sequence[int]) -> str:
        """Return the generated text without the token that ended it."""
        ids = list(token_ids)
        if ids and ids[-1] == self.tokenizer.eos_id:
            ids.pop()
        return self.tokenizer.decode(ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """One evaluation run."""

    num_samples: int = 2
    """k of avg@k."""
    temperature: float = 1.0
    """0 is greedy, where one sample says it all."""
    max_tokens: int = 320
    """Budget of a reply; an unfinished one is wrong, as in RL. Deviation: D-018."""
    seed: int = 0
    """Names the random streams."""


@dataclass(slots=True)
class Outcome:
    """What one question's samples came to; INFRA verdicts are left out of every figure."""

    rewards: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_infra: int = 0


def sample_and_judge(
    engine: Engine,
    codec: Codec,
    questions: Sequence[str],
    judge: Judge,
    config: EvalConfig,
) -> list[Outcome]:
    """Answer every question `num_samples` times and judge what ended by itself."""
    judge = patient(judge)
    samples = 1 if config.temperature == 0 else config.num_samples
    prompts, params = [], []
    for i, question in enumerate(questions):
        for k in range(samples):
            prompts.append(codec.prompt(question))
            params.append(
                SamplingParams(
                    max_tokens=config.max_tokens,
                    temperature=config.temperature,
                    seed=stream_seed(config.seed, "eval", i, k),
                    stop_token_ids=(codec.tokenizer.eos_id,),
                )
            )
    outcomes = [Outcome() for _ in questions]
    for j, output in enumerate(engine.generate(prompts, params)):
        outcome = outcomes[j // samples]
        outcome.num_tokens += len(output.token_ids)
        is_cut = output.finish_reason == "length"
        verdict = CUT if is_cut else judge(j // samples, codec.reply(output.token_ids))
        if verdict.judgement is Judgement.INFRA:
            outcome.num_infra += 1
            log.warning("a reply could not be judged and counts for nothing: %s", verdict.reason)
        else:
            outcome.rewards.append(verdict.reward)
    return outcomes


def pass_at_1(outcomes: Sequence[Outcome]) -> Score:
    """Return avg@k over the questions that have at least one valid verdict."""
    return score_of([sum(o.rewards) / len(o.rewards) for o in outcomes if o.rewards])
