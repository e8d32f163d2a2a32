"""The actor: prompts to groups of scored rollouts.

Paper: IV-B1(a) (PipelineRL), IV-F(a) (canary).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from openzaya.core.errors import (
    ContextLengthError,
    EngineError,
    EnvError,
    SandboxError,
    UpstreamError,
)
from openzaya.core.log import span
from openzaya.core.records import CUT, Judgement, Verdict, infra
from openzaya.core.seeding import stream_seed
from openzaya.core.time_limit import within
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.model.config import ZayaConfig
from openzaya.rl.config import Group, Prompt, RLConfig, Rollout, Score
from openzaya.rl.router_replay import route_problem
from openzaya.rl.spine import rare_token_share, repetition_canary
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer

RARE_SHARE = 0.10
"""Share of the id range whose use raises the alarm; the finer ones are in `spine`."""
MAX_HUNG_GROUPS = 5
"""Groups in a row whose scoring may come to no end before the run stops: it would take hours to
notice by the share of failures."""


@dataclass(slots=True)
class ActorStats:
    """Counts of one or more calls. Dropped groups appear in `infra_*` and `too_long` only."""

    infra_groups: int = 0
    """Groups dropped because a member could not be judged or trained on."""
    infra_rollouts: int = 0
    """Members that were the reason."""
    too_long: int = 0
    """Prompts left out because they leave no room for a whole response."""
    rollouts: int = 0
    """Rollouts of the groups that were not dropped."""
    tokens: int = 0
    cut: int = 0
    flagged: int = 0
    rare: float = 0.0
    """Sum over rollouts of the share of tokens in the rarest tenth of the vocabulary."""
    reasons: list[str] = field(default_factory=list)
    """Why groups were dropped, the first few."""

    def drop(self, reasons: Sequence[str]) -> None:
        """Count a dropped group with the reasons of its failed members."""
        self.infra_groups += 1
        self.infra_rollouts += len(reasons)
        self.reasons = [*self.reasons, *reasons][:5]


class Actor:
    """Turns prompts into groups with an engine, a codec and a verifier."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: TextTokenizer,
        chat: ChatTemplate,
        score: Score,
        config: RLConfig,
        model_config: ZayaConfig,
        updates_of: Callable[[int], int],
    ) -> None:
        """Keep the parts; `updates_of` says how many updates a version of the engine had seen."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat = chat
        self.score = score
        self.config = config
        self.model_config = model_config
        self.updates_of = updates_of
        self.hung_in_a_row = 0
        self.ordinary_ids = ordinary_ids(tokenizer.special_ids, tokenizer.vocab_size)

    def rollout(
        self, prompts: Sequence[Prompt], step: int, first: int, stats: ActorStats
    ) -> list[Group]:
        """Return one group a prompt, less those that are too long or could not be judged.

        Seeds depend on the step and on the prompt's place, `first` + i, so a resumed run samples
        the same tokens.
        """
        size = self.config.group_size
        chosen, asked, params = [], [], []
        for i, prompt in enumerate(prompts):
            ids = self.chat.encode_prompt(prompt.messages, self.tokenizer)
            if len(ids) + self.config.max_response_tokens > self.engine.max_tokens:
                stats.too_long += 1
                continue
            chosen.append((prompt, ids))
            asked += [ids] * size
            for g in range(size):
                seed = stream_seed(self.config.seed, "rollout", step, first + i, g)
                params.append(self._params(seed))
        with span("rl/rollout"):
            outputs = self.engine.generate(asked, params)
        groups = []
        with span("rl/score"):
            for i, (prompt, ids) in enumerate(chosen):
                group = self._judge(prompt, ids, outputs[i * size : (i + 1) * size], stats)
                if group is not None:
                    groups.append(group)
        return groups

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
        """Score a group; None when a member failed on our side: its statistics mean nothing."""
        texts = [self._text(output) for output in outputs]
        try:
            verdicts = [
                self._verdict(prompt, len(prompt_ids), output, text)
                for output, text in zip(outputs, texts, strict=True)
            ]
        except TimeoutError as error:
            # The others could not save the group, and may take as long.
            self._count_hung(f"no verdict on a reply to {prompt.key!r} ({error})", stats)
            return None
        self.hung_in_a_row = 0
        failed = [v.reason for v in verdicts if v.judgement is Judgement.INFRA]
        if failed:
            stats.drop(failed)
            return None
        rollouts = tuple(
            self._rollout(output, text, verdict)
            for output, text, verdict in zip(outputs, texts, verdicts, strict=True)
        )
        for rollout in rollouts:
            stats.rollouts += 1
            stats.tokens += len(rollout.token_ids)
            stats.cut += rollout.is_cut
            stats.flagged += rollout.is_flagged
            share = rare_token_share(rollout.token_ids, self.ordinary_ids, shares=(RARE_SHARE,))
            stats.rare += share[RARE_SHARE]
        return Group(prompt, prompt_ids, rollouts)

    def _count_hung(self, reason: str, stats: ActorStats) -> None:
        """Drop a group whose scoring took too long. Raises EnvError when that is the rule."""
        stats.drop([reason])
        self.hung_in_a_row += 1
        if self.hung_in_a_row >= MAX_HUNG_GROUPS:
            raise EnvError(
                f"scoring took too long in {MAX_HUNG_GROUPS} groups in a row: {reason}; look why "
                f"it hangs, or raise score_limit_s = {self.config.score_limit_s:g} and go on from "
                "the last checkpoint"
            )

    def _text(self, output: Output) -> str:
        ids = output.token_ids
        return self.tokenizer.decode(ids[:-1] if output.finish_reason == "stop" else ids)

    def _verdict(self, prompt: Prompt, prompt_len: int, output: Output, text: str) -> Verdict:
        if output.finish_reason == "abort" or not output.token_ids:
            return infra("the rollout was aborted")
        inputs = prompt_len + len(output.token_ids) - 1
        layers, experts = self.model_config.num_hidden_layers, self.model_config.num_experts
        problem = route_problem(output.experts, inputs, layers, experts)
        if problem:
            return infra(problem)
        if output.finish_reason == "length":
            return CUT
        try:
            verdict = within(self.config.score_limit_s, self.score, prompt, text)
        except (SandboxError, EnvError, EngineError, UpstreamError) as error:
            return infra(f"{type(error).__name__}: {error}")
        if self.config.reward == "score" and not 0.0 <= verdict.score <= 1.0:
            return infra(f"the score is {verdict.score}, expected a number from 0 to 1")
        return verdict

    def _rollout(self, output: Output, text: str, verdict: Verdict) -> Rollout:
        report = repetition_canary(output.token_ids, self.config.canary)
        reward = verdict.reward if self.config.reward == "binary" else verdict.score
        assert output.experts is not None, "checked by _verdict"
        return Rollout(
            token_ids=output.token_ids,
            logprobs=output.logprobs,
            versions=[self.updates_of(version) for version in output.versions],
            experts=output.experts,
            text=text,
            # Before any group statistic: solve rate, baseline, length bonus, contrast.
            reward=0.0 if report.is_flagged else reward,
            is_flagged=report.is_flagged,
            is_cut=output.finish_reason == "length",
        )


def check_room(config: RLConfig, engine: Engine) -> None:
    """Raise ContextLengthError when no prompt at all could be followed by a whole response."""
    if config.max_response_tokens >= engine.max_tokens:
        raise ContextLengthError(
            f"max_response_tokens is {config.max_response_tokens}, but a slot holds "
            f"{engine.max_tokens} tokens of prompt and response; raise context_tokens"
        )


def ordinary_ids(special_ids: frozenset[int], vocab_size: int) -> range:
    """Return the ids between the special ones at the bottom and those at the top."""
    low = 1 + max((i for i in special_ids if i < vocab_size // 2), default=-1)
    high = min((i for i in special_ids if i >= vocab_size // 2), default=vocab_size)
    return range(low, high) if low < high else range(vocab_size)
