"""Run one RL stage: roll out, keep what has contrast, update, publish, checkpoint.

Paper: IV-B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openzaya.core.config import config_hash, to_mapping
from openzaya.core.errors import EngineError
from openzaya.core.log import MetricWriter, declare
from openzaya.engine.engine import Engine
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.rl.config import Group, Prompt, RLConfig, Score
from openzaya.rl.pipeline.actor import Actor, ActorStats
from openzaya.rl.pipeline.buffer import GroupBuffer
from openzaya.rl.pipeline.trainer import PolicyTrainer, Update
from openzaya.rl.pipeline.weight_sync import WeightPublisher, fingerprint
from openzaya.rl.tails import TailEntry, TailPool
from openzaya.text.chat import ChatTemplate
from openzaya.text.tails import tail_of
from openzaya.text.think import split_thinking
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train import ckpt

declare("rl/reward", "share", "mean task reward over all groups seen", (0.02, 0.98), "IV-B1")
declare("rl/kept_share", "share", "groups with contrast / groups seen", (0.1, 1.0), "IV-B1(d)")
declare("rl/infra_groups", "groups", "groups dropped because a verdict was INFRA", (0.0, 0.0))
declare("rl/grad_norm", "1", "2-norm of all gradients before clipping")
declare("rl/response_tokens", "tokens", "generated tokens / rollouts")
declare("rl/cut_share", "share", "rollouts that ended at the budget", (0.0, 0.2))
declare("rl/canary_share", "share", "rollouts flagged by the repetition canary", (0.0, 0.02), "IV-F")
declare("rl/applied", "1", "1 when the update was applied")
declare("rl/stale_groups", "groups", "groups dropped as too old, so far")
for _name, _formula in (
    ("rl/masked_share_positive", "masked tokens / tokens, A > 0"),
    ("rl/masked_share_negative", "masked tokens / tokens, A < 0"),
    ("rl/mean_abs_prob_change", "mean |pi - mu|"),
    ("rl/mismatch_kl", "mean k3 estimate of KL(mu || pi)"),
    ("rl/mismatch_kl_kept", "the same over tokens that were kept"),
    ("rl/mismatch_kl_masked", "the same over tokens that were masked"),
    ("rl/entropy_estimate", "mean -log pi of sampled tokens"),
    ("rl/ratio_ess", "(sum ratio)^2 / (tokens * sum ratio^2)"),
    ("rl/ratio_over_cap_share", "tokens with a truncated ratio / tokens"),
):
    declare(_name, "1", _formula, paper="IV-B1(b)")

NextPrompts = Callable[[int, int, TailPool], Sequence[Prompt]]
"""Prompts of (step, attempt): a pure function of both and of the pool's contents."""


@dataclass(slots=True)
class RLState:
    """What a stage remembers beyond tensors."""

    step: int = 0
    version: int = 0
    useless: int = 0
    """Updates skipped in a row."""
    rewards: list[float] = field(default_factory=list)
    """Mean task reward of every step."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step saw; handed to `on_step`."""

    groups: Sequence[Group]
    """Every group, uniform ones included."""
    metrics: dict[str, float]


class RLStage:
    """One stage over one model and one engine that share weights."""

    def __init__(
        self,
        model: Zaya,
        score: Score,
        tokenizer: TextTokenizer,
        chat: ChatTemplate,
        config: RLConfig,
        tail_tokens: int,
    ) -> None:
        """Build engine, actor, trainer, buffer and an empty pool of tails."""
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.tail_tokens = tail_tokens
        self.engine = Engine(model, max_slots=config.slots, max_tokens=config.context_tokens)
        self.optimizers = build_optimizer(model, config.optim)
        self.actor = Actor(self.engine, tokenizer, chat, score, config)
        self.trainer = PolicyTrainer(model, self.optimizers, config)
        self.publisher = WeightPublisher(model, self.engine)
        capacity = config.buffer_batches * config.prompts_per_step
        self.buffer = GroupBuffer(capacity, config.max_lag)
        self.pool = TailPool(config.pool_size, config.tails_per_prompt)
        self.state = RLState()

    def step(self, next_prompts: NextPrompts) -> StepOutcome:
        """Roll out until a batch of groups has contrast, update, publish."""
        seen, stats = self._fill(next_prompts)
        groups = self.buffer.take(len(self.buffer), self.state.version)
        update = self.trainer.update(groups)
        self.state.step += 1
        self.state.useless = 0 if update.applied else self.state.useless + 1
        if self.state.useless >= self.config.max_useless_steps:
            raise EngineError(
                f"{self.state.useless} steps in a row had fewer than {self.config.min_groups} "
                "groups with contrast; choose prompts that the policy solves sometimes"
            )
        if self.state.step % self.config.sync_every == 0:
            self.state.version = self.publisher.publish(fingerprint(self.model))
        self._keep_tails(seen)
        metrics = self._metrics(stats, seen, len(groups), update)
        self.state.rewards.append(metrics["rl/reward"])
        return StepOutcome(seen, metrics)

    def _fill(self, next_prompts: NextPrompts) -> tuple[list[Group], list[ActorStats]]:
        """Add groups with contrast to the buffer until it holds a batch or patience ends."""
        config = self.config
        seen: list[Group] = []
        stats: list[ActorStats] = []
        asked = attempt = 0
        while len(self.buffer) < config.prompts_per_step:
            if asked >= config.max_oversampling * config.prompts_per_step:
                break
            prompts = list(next_prompts(self.state.step, attempt, self.pool))
            groups, counted = self.actor.rollout(prompts, self.state.step, asked)
            for group in groups:
                solve_rate = sum(group.rewards) / len(group.rewards)
                # Uniform groups are observed before they are dropped.
                self.trainer.solve_rates.observe(group.prompt.source, solve_rate)
                if max(group.rewards) > min(group.rewards):
                    self.buffer.push(group)
            seen.extend(groups)
            stats.append(counted)
            asked += len(prompts)
            attempt += 1
        return seen, stats

    def _keep_tails(self, groups: Sequence[Group]) -> None:
        for group in groups:
            prompt = group.prompt
            if not prompt.keeps_tails:
                continue
            tails = [
                tail_of(
                    split_thinking(rollout.text), self.tokenizer.last_tokens, self.tail_tokens
                )
                for rollout in group.rollouts
            ]
            kept = [tail for tail in tails if tail]
            if kept:
                entry = TailEntry(prompt.messages, prompt.payload, prompt.source, kept)
                self.pool.add(prompt.key, entry)

    def _metrics(
        self, stats: Sequence[ActorStats], seen: Sequence[Group], kept: int, update: Update
    ) -> dict[str, float]:
        rollouts = max(1, len(seen) * self.config.group_size)
        rewards = [reward for group in seen for reward in group.rewards]
        return {
            "rl/reward": sum(rewards) / max(1, len(rewards)),
            "rl/kept_share": kept / max(1, len(seen)),
            "rl/infra_groups": float(sum(s.infra_groups for s in stats)),
            "rl/grad_norm": update.grad_norm,
            "rl/response_tokens": sum(s.tokens for s in stats) / rollouts,
            "rl/cut_share": sum(s.cut for s in stats) / rollouts,
            "rl/canary_share": sum(s.flagged for s in stats) / rollouts,
            "rl/applied": float(update.applied),
            "rl/stale_groups": float(self.buffer.num_stale),
            **update.figures,
        }

    def save(self, run_dir: Path) -> None:
        """Write everything that the next step depends on. The buffer is empty between steps."""
        tensors = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"optim/{name}": t for name, t in self.optimizers.state_dict().items()}
        state: dict[str, Any] = {
            "version": self.state.version,
            "useless": self.state.useless,
            "rewards": self.state.rewards,
            "pool": self.pool.to_json(),
            "solve_rates": self.trainer.solve_rates.state_dict(),
        }
        ckpt.save(run_dir, self.state.step, tensors, state, self._meta())

    def resume(self, run_dir: Path) -> None:
        """Load the newest checkpoint that verifies, if there is one."""
        loaded = ckpt.load_newest(run_dir, self._meta())
        if loaded is None:
            return
        tensors = loaded.tensors
        self.model.load_state_dict(
            {k[len("model/") :]: v for k, v in tensors.items() if k.startswith("model/")}
        )
        self.optimizers.load_state_dict(
            {k[len("optim/") :]: v for k, v in tensors.items() if k.startswith("optim/")}
        )
        self.state.step = loaded.step
        self.state.useless = loaded.state["useless"]
        self.state.rewards = loaded.state["rewards"]
        self.pool.load(loaded.state["pool"])
        self.trainer.solve_rates.load_state_dict(loaded.state["solve_rates"])
        while self.state.version < loaded.state["version"]:
            self.state.version = self.engine.bump_version()

    def _meta(self) -> dict[str, Any]:
        return {"config_hash": config_hash(self.config), "config": to_mapping(self.config)}


def run_rl(
    stage: RLStage,
    next_prompts: NextPrompts,
    run_dir: Path,
    *,
    on_step: Callable[[int, StepOutcome], None] = lambda _step, _outcome: None,
    writer: MetricWriter | None = None,
) -> RLState:
    """Run `stage` to its last step, from the newest checkpoint in `run_dir` if there is one.

    A resumed run is bit-identical to one that was never stopped: every seed is a function of the
    step, and the buffer is drained within each step.
    """
    stage.resume(run_dir)
    config = stage.config
    if writer is not None:
        writer.truncate_after(stage.state.step, config.name)
    while stage.state.step < config.steps:
        outcome = stage.step(next_prompts)
        if writer is not None:
            writer.write(stage.state.step, config.name, outcome.metrics)
        on_step(stage.state.step, outcome)
        step = stage.state.step
        if step % config.checkpoint_every_steps == 0 or step == config.steps:
            stage.save(run_dir)
    return stage.state
