"""The actor: prompts to groups of scored rollouts.

Paper: IV-B1(a) (PipelineRL), IV-F (canary).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from openzaya.core.log import span
from openzaya.core.records import Judgement
from openzaya.core.seeding import stream_seed
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.rl.config import Group, Prompt, RLConfig, Rollout, Score
from openzaya.rl.spine import repetition_canary
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer


@dataclass(slots=True)
class ActorStats:
    """Counts of one call; INFRA groups appear nowhere else."""

    groups: int = 0
    infra_groups: int = 0
    tokens: int = 0
    cut: int = 0
    flagged: int = 0
    rewards: dict[str, list[float]] = field(default_factory=dict)
    """Group means by source, uniform groups included."""


class Actor:
    """Turns prompts into groups with an engine, a codec and a verifier."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: TextTokenizer,
        chat: ChatTemplate,
        score: Score,
        config: RLConfig,
    ) -> None:
        """Keep the parts."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat = chat
        self.score = score
        self.config = config

    def rollout(
        self, prompts: Sequence[Prompt], step: int, first: int
    ) -> tuple[list[Group], ActorStats]:
        """Return one group a prompt, less those with an INFRA verdict.

        Seeds depend on the step and on the prompt's place, `first` + i, so a resumed run samples
        the same tokens.
        """
        encoded = [self.chat.encode_prompt(prompt.messages, self.tokenizer) for prompt in prompts]
        asked, params = [], []
        for i, ids in enumerate(encoded):
            for g in range(self.config.group_size):
                seed = stream_seed(self.config.seed, "rollout", step, first + i, g)
                asked.append(ids)
                params.append(self._params(seed))
        with span("rl/rollout"):
            outputs = self.engine.generate(asked, params)
        stats = ActorStats()
        groups = []
        for i, prompt in enumerate(prompts):
            members = outputs[i * self.config.group_size : (i + 1) * self.config.group_size]
            group = self._judge(prompt, encoded[i], members, stats)
            if group is not None:
                groups.append(group)
        return groups, stats

    def _params(self, seed: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.config.max_response_tokens,
            temperature=self.config.temperature,
            seed=seed,
            stop_token_ids=(self.tokenizer.eos_id,),
            capture_experts=True,
        )

    def _judge(
        self, prompt: Prompt, prompt_ids: list[int], outputs: Sequence[Output], stats: ActorStats
    ) -> Group | None:
        """Score a group; None when any verdict is INFRA, for then its statistics mean nothing."""
        rollouts = []
        for output in outputs:
            ended = output.token_ids[-1] == self.tokenizer.eos_id
            text = self.tokenizer.decode(output.token_ids[:-1] if ended else output.token_ids)
            verdict = self.score(prompt, text)
            if verdict.judgement is Judgement.INFRA:
                stats.infra_groups += 1
                return None
            report = repetition_canary(output.token_ids, self.config.canary)
            assert output.experts is not None, "asked for with capture_experts"
            rollouts.append(
                Rollout(
                    token_ids=output.token_ids,
                    logprobs=output.logprobs,
                    experts=output.experts,
                    min_version=min(output.versions),
                    text=text,
                    reward=0.0 if report.is_flagged else verdict.reward,
                    is_flagged=report.is_flagged,
                    is_cut=output.finish_reason == "length",
                )
            )
        stats.groups += 1
        stats.tokens += sum(len(r.token_ids) for r in rollouts)
        stats.cut += sum(r.is_cut for r in rollouts)
        stats.flagged += sum(r.is_flagged for r in rollouts)
        mean = sum(r.reward for r in rollouts) / len(rollouts)
        stats.rewards.setdefault(prompt.source, []).append(mean)
        return Group(prompt, prompt_ids, tuple(rollouts))
