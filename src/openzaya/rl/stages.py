"""Run one RL stage: roll out, keep what has contrast, update, publish, checkpoint.

Paper: IV-B.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openzaya.core.errors import DataError, EnvError
from openzaya.core.log import MetricWriter
from openzaya.engine.engine import Engine
from openzaya.model.zaya import Zaya
from openzaya.optim import build_optimizer
from openzaya.optim.newton_schulz import kernels_of
from openzaya.rl.config import Group, Prompt, RLConfig, Score
from openzaya.rl.metrics import rollout_figures
from openzaya.rl.pipeline.actor import Actor, ActorStats, check_room
from openzaya.rl.pipeline.buffer import GroupBuffer
from openzaya.rl.pipeline.trainer import PolicyTrainer, Update
from openzaya.rl.pipeline.weight_sync import WeightPublisher
from openzaya.rl.spine import informative_groups
from openzaya.rl.tails import TailEntry, TailPool
from openzaya.text.chat import ChatTemplate
from openzaya.text.tails import tail_of
from openzaya.text.think import split_thinking
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.lineage import RL_CODE, identity, shape_of
from openzaya.train.lock import StopSignal
from openzaya.train.loop import CheckpointClock, stopped
from openzaya.train.saver import DEFAULT_SAVING, Saver, Saving

NextPrompts = Callable[[int, int, TailPool], Sequence[Prompt]]
"""Prompts of (step, attempt): a pure function of both and of the pool's contents."""

INFRA_WINDOW = 1_000
"""Rollouts over which the share of INFRA verdicts is judged."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RLState:
    """What a stage remembers beyond tensors."""

    step: int = 0
    """Steps done, skipped ones included."""
    updates: int = 0
    """Updates applied: the clock that staleness is measured with."""
    useless: int = 0
    """Updates skipped in a row."""
    rewards: list[float] = field(default_factory=list)
    """Mean task reward of every step."""
    judged: list[list[int]] = field(default_factory=list)
    """Rollouts and INFRA verdicts of the last steps."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step saw; handed to `on_step`."""

    groups: Sequence[Group]
    """Every group, uniform ones included."""
    metrics: dict[str, float]


class RLStage:
    """One stage over one model and one engine.

    With `sync_every` 1 the engine runs the trainer's own model; otherwise a copy of it, which
    gets the weights every `sync_every` steps.
    """

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
        self.sampler = model if config.sync_every == 1 else deepcopy(model).requires_grad_(False)
        self.tokenizer = tokenizer
        self.tail_tokens = tail_tokens
        slots, context = config.slots, config.context_tokens
        # Nothing kept of finished rollouts: a resumed run would lack it, and differ in last bits.
        self.engine = Engine(self.sampler, max_slots=slots, max_tokens=context, kept_blocks=0)
        check_room(config, self.engine)
        self.optimizers = build_optimizer(model, config.optim)
        self.publisher = WeightPublisher(model, self.sampler, self.engine)
        updates_of = self.publisher.updates_of
        self.actor = Actor(self.engine, tokenizer, chat, score, config, model.config, updates_of)
        self.trainer = PolicyTrainer(model, self.optimizers, config)
        capacity = config.buffer_batches * config.prompts_per_step
        self.buffer = GroupBuffer(capacity, config.max_lag)
        self.pool = TailPool(config.pool_size, config.tails_per_prompt)
        self.state = RLState()

    def step(self, next_prompts: NextPrompts) -> StepOutcome:
        """Roll out until enough groups have contrast, update, publish.

        Groups that are too few for an update wait in the buffer. Raises DataError when updates
        are skipped for too long, EnvError when too many rollouts cannot be judged.
        """
        seen, kept, stats = self._fill(next_prompts)
        if stats.reasons:
            log.warning(
                "%s, step %d: groups dropped because they could not be judged: %d (%s)",
                self.config.name,
                self.state.step + 1,
                stats.infra_groups,
                "; ".join(stats.reasons),
            )
        groups: list[Group] = []
        if len(self.buffer) >= self.config.min_groups:
            groups = self.buffer.take(self.config.prompts_per_step, self.state.updates)
        staleness = max((self.state.updates - g.min_version for g in groups), default=0)
        update = self.trainer.update(groups, self.state.step)
        self.state.step += 1
        self.state.updates += update.applied
        self._check_progress(update, stats)
        fresh = self.publisher.published_updates == self.state.updates
        if self.state.step % self.config.sync_every == 0 and not fresh:
            self.publisher.publish(self.state.updates)
        self._keep_tails(seen)
        metrics = {
            **rollout_figures(seen, kept, stats),
            **update.figures,
            "rl/trained_groups": float(len(groups)),
            "rl/grad_norm": update.grad_norm,
            "rl/applied": float(update.applied),
            "rl/staleness": float(staleness),
            "rl/stale_groups": float(self.buffer.num_stale),
            "rl/evicted_groups": float(self.buffer.num_evicted),
        }
        self.state.rewards.append(metrics["rl/reward"])
        return StepOutcome(seen, metrics)

    def _fill(self, next_prompts: NextPrompts) -> tuple[list[Group], int, ActorStats]:
        """Roll out until the buffer holds what the trainer waits for, or patience ends."""
        config = self.config
        self.buffer.drop_stale(self.state.updates)
        target = config.wait_batches * config.prompts_per_step
        limit = config.max_oversampling * max(0, target - len(self.buffer))
        seen: list[Group] = []
        stats = ActorStats()
        kept = asked = attempt = 0
        while len(self.buffer) < target and asked < limit:
            prompts = list(next_prompts(self.state.step, attempt, self.pool))
            if not prompts:
                raise DataError(
                    f"there are no prompts for step {self.state.step}, attempt {attempt}; "
                    "next_prompts must return at least one"
                )
            groups = self.actor.rollout(prompts, self.state.step, asked, stats)
            for group in groups:
                kept += self._observe(group)
            seen.extend(groups)
            asked += len(prompts)
            attempt += 1
        return seen, kept, stats

    def _observe(self, group: Group) -> bool:
        """Record a group's solve rate, uniform or not; enqueue it when it has contrast."""
        solve_rate = sum(group.rewards) / len(group.rewards)
        self.trainer.solve_rates.observe(group.prompt.source, solve_rate)
        if not bool(informative_groups(torch.tensor([group.rewards]))):
            return False
        self.buffer.push(group)
        return True

    def _check_progress(self, update: Update, stats: ActorStats) -> None:
        state, config = self.state, self.config
        state.useless = 0 if update.applied else state.useless + 1
        if state.useless >= config.max_useless_steps:
            raise DataError(
                f"{state.useless} steps in a row made no update: fewer than {config.min_groups} "
                "groups had contrast, or their gradient was zero (in the last one "
                f"{stats.too_long} prompts were too long and {stats.infra_groups} groups could "
                "not be judged); choose prompts that the policy solves sometimes, or lower "
                "min_groups"
            )
        dropped = stats.infra_groups * config.group_size
        state.judged.append([stats.rollouts + dropped, stats.infra_rollouts])
        while sum(n for n, _ in state.judged[1:]) >= INFRA_WINDOW:
            del state.judged[0]
        rollouts, failed = (sum(column) for column in zip(*state.judged, strict=True))
        if rollouts >= INFRA_WINDOW and failed > config.max_infra_share * rollouts:
            raise EnvError(
                f"{failed} of the last {rollouts} rollouts could not be judged, more than "
                f"max_infra_share = {config.max_infra_share}; the last reasons: "
                f"{'; '.join(stats.reasons) or 'none in this step'}"
            )

    def _keep_tails(self, groups: Sequence[Group]) -> None:
        for group in groups:
            prompt = group.prompt
            if not prompt.keeps_tails:
                continue
            cut, count = self.tokenizer.last_tokens, self.tail_tokens
            tails = [tail_of(split_thinking(r.text), cut, count) for r in group.rollouts]
            kept = [tail for tail in tails if tail]
            if kept:
                rate = sum(group.rewards) / len(group.rewards)
                entry = TailEntry(prompt.messages, prompt.payload, prompt.source, kept, rate)
                self.pool.add(prompt.key, entry)

    def save(self, saver: Saver, *, is_last: bool) -> None:
        """Hand over everything that the next step depends on, as one transaction."""
        waiting, buffer = self.buffer.state()
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optim": self.optimizers.state_dict(),
            "balance": self.trainer.balancer.state_dict(),
            "buffer": waiting,
        }
        if not self.publisher.is_shared:
            parts["sampler"] = self.sampler.state_dict()
        tensors = {
            f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()
        }
        state: dict[str, Any] = {
            "updates": self.state.updates,
            "published_updates": self.publisher.published_updates,
            "useless": self.state.useless,
            "broken": self.trainer.broken_in_a_row,
            "rewards": self.state.rewards,
            "judged": self.state.judged,
            "pool": self.pool.to_json(),
            "buffer": buffer,
            "solve_rates": self.trainer.solve_rates.state_dict(),
        }
        saver.save(self.state.step, tensors, state, is_last=is_last)

    def resume(self, saver: Saver) -> None:
        """Load the newest checkpoint that verifies, if there is one."""
        loaded = saver.load()
        if loaded is None:
            return
        self.model.load_state_dict(loaded.part("model"))
        self.optimizers.load_state_dict(loaded.part("optim"))
        self.trainer.balancer.load_state_dict(loaded.part("balance"))
        if not self.publisher.is_shared:
            self.sampler.load_state_dict(loaded.part("sampler"))
        state = loaded.state
        self.publisher.restore(state["published_updates"])
        self.buffer.load(loaded.part("buffer"), state["buffer"])
        self.pool.load(state["pool"])
        self.trainer.solve_rates.load_state_dict(state["solve_rates"])
        self.trainer.broken_in_a_row = state["broken"]
        self.state = RLState(
            loaded.step, state["updates"], state["useless"], state["rewards"], state["judged"]
        )

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint records of the run, for a resume to be compared with."""
        model, muon = self.model, self.config.optim.muon
        about = identity(
            self.config,
            self.tokenizer.sha256,
            RL_CODE,
            kernels=model.kernels_of_training(),
            muon=kernels_of(model.device, muon.arithmetic),
        )
        return about | {"model": shape_of(model, model.dtype)}


def run_rl(
    stage: RLStage,
    next_prompts: NextPrompts,
    run_dir: Path,
    *,
    on_step: Callable[[int, StepOutcome], None] = lambda _step, _outcome: None,
    writer: MetricWriter | None = None,
    saving: Saving = DEFAULT_SAVING,
) -> RLState:
    """Run `stage` to its last step, from the newest checkpoint in `run_dir` if there is one.

    A resumed run is bit-identical to one that was never stopped: every seed is a function of the
    step, and the checkpoint holds all that waits between steps. Raises CheckpointError when
    `run_dir` holds another stage's settings, model, tokenizer or code, or is in use, and
    TrainingStopped, with the step saved, after SIGTERM.
    """
    config = stage.config
    with Saver(run_dir, stage.identity(), saving) as saver, StopSignal() as stop:
        stage.resume(saver)
        if writer is not None:
            writer.truncate_after(stage.state.step, config.name)
        clock = CheckpointClock(config.checkpoint_every_steps)
        while stage.state.step < config.steps:
            outcome = stage.step(next_prompts)
            step = stage.state.step
            if writer is not None:
                writer.write(step, config.name, outcome.metrics)
            on_step(step, outcome)
            saver.poll()
            stopping = stop.requested  # read once: a later signal is the next step's business
            is_last = step == config.steps or stopping
            if is_last or saver.wants_retry or clock.is_due(step):
                stage.save(saver, is_last=is_last)
                clock.restart()
            if stopping:
                break
        if stop.requested:
            raise stopped(config.name, stage.state.step, config.steps, run_dir)
    return stage.state
