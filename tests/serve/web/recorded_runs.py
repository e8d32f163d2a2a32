"""Runs for the page, recorded from the real state machine over a model that only pretends.

The clock is virtual, so a run of minutes is recorded in milliseconds, and every recording of the
same settings is the same.
"""

import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from openzaya.core.config import to_mapping
from openzaya.core.errors import OpenZayaError, UpstreamError
from openzaya.core.records import Completion, Message, SampleRequest
from openzaya.core.seeding import stream_seed
from openzaya.ttc import Candidate, MarkovianRSA, MarkovianRSAConfig, Result, preview
from openzaya.ttc.journal.views import changed

CREATED_S = 1_790_000_000.0
CONCLUDES = re.compile(r"so it is (\S+?)[.,]?(?=\s|$)")
SENTENCES = (
    "Split the sum by the residue of n and treat each part alone.",
    "If p divides both then it divides their difference, which leaves few cases.",
    "Check the small case first: n = 3 gives 4, which fits the formula.",
    "Counting the pairs twice is the trap here, so divide by two at the end.",
    "Wait, the boundary term was dropped above; put it back and simplify.",
    "The generating function has a double pole at 1, which gives the linear term.",
    "By symmetry it is enough to take a <= b and double what is off the diagonal.",
    "Modulo 8 the left side is 1 or 4, so x must be odd.",
)


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


@dataclass
class Call:
    """When the last try of a candidate waited, began, spoke and ended; seconds."""

    queued: float
    messages: tuple[Message, ...]
    began: float | None = None
    first: float | None = None
    ended: float | None = None
    cached: int = 0


@dataclass
class PretendModel:
    """Reasons at a fixed speed; what it concludes depends on the tails that it is shown."""

    right: str = "84"
    proof: str = ""
    """The reply that concludes what is right; a sentence by default, as for all that is wrong."""
    wrong: tuple[str, ...] = ("72", "96", "90", "48", "83", "168", "42", "80")
    skill: float = 0.34
    trust: float = 0.9
    places: int = 64
    mean_tokens: float = 8_000.0
    tokens_per_s: float = 55.0
    fails: float = 0.0
    sentences: tuple[str, ...] = SENTENCES
    mark: str = ""
    tail_method: str = "exact"
    calls: dict[int, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.free = asyncio.Semaphore(self.places)
        self.tries: Counter[int] = Counter()

    async def sample(self, request: SampleRequest) -> Completion:
        now = asyncio.get_running_loop().time
        self.tries[request.seed] += 1
        rng = Random(f"{request.seed}/{self.tries[request.seed]}")
        call = self.calls[request.seed] = Call(now(), request.messages)
        async with self.free:
            call.began = now()
            prompt = self.count_prompt_tokens(request.messages)
            call.cached = prompt // 3 if len(request.messages[-1].content) > 400 else 0
            await asyncio.sleep(0.05 + (prompt - call.cached) / 9_000)
            call.first = now()
            tokens = int(self.mean_tokens * rng.lognormvariate(-0.15, 0.55)) + 40
            if rng.random() < self.fails:
                await asyncio.sleep(tokens * 0.1 / self.tokens_per_s)
                call.ended = now()
                raise UpstreamError("the upstream closed the connection in the middle of a stream")
            used = min(tokens, request.max_tokens)
            await asyncio.sleep(used / self.tokens_per_s)
            call.ended = now()
        return Completion(
            text=self.text(request, rng, is_cut=tokens > used),
            num_tokens=used,
            finish_reason="length" if tokens > used else "stop",
            num_prompt_tokens=prompt,
        )

    def text(self, request: SampleRequest, rng: Random, *, is_cut: bool) -> str:
        answer = self.conclude(request.messages[-1].content, rng)
        thoughts = " ".join(rng.choice(self.sentences) for _ in range(rng.randint(12, 60)))
        thoughts = f"{self.mark}{thoughts} With both cases so it is {answer}. {self.mark}"
        if is_cut:
            return f"{thoughts} But check the case of equal terms again"
        if self.proof and answer == self.right:
            return f"{thoughts}</think>{self.proof}"
        return f"{thoughts}</think>Both cases together give \\boxed{{{answer}}}."

    def conclude(self, prompt: str, rng: Random) -> str:
        seen = Counter(CONCLUDES.findall(prompt))
        if seen and rng.random() < self.trust:
            most = max(seen.values())
            leaders = [a for a, n in seen.items() if n == most]
            return self.right if self.right in leaders else rng.choice(leaders)
        return self.right if rng.random() < self.skill else rng.choice(self.wrong)

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        return sum(len(m.content) * 2 for m in messages)

    def last_tokens(self, text: str, count: int) -> str:
        words = re.findall(r"\s*\S+", text)
        return "".join(words[-max(1, count // 30) :]).lstrip()


QUESTION = (
    "Find the number of triples $(a, b, c)$ of integers with $0 \\le a \\le b \\le c \\le 6$, that "
    "is, the dimension of the space of homogeneous polynomials of degree $6$ in "
    "$x_1, x_2, x_3, x_4$."
)


@dataclass(frozen=True)
class Recording:
    """A run as the journal shows it, and the events by which it came about."""

    run: dict[str, Any]
    candidates: list[dict[str, Any]]
    events: list[tuple[float, str, dict[str, Any]]]

    @property
    def id(self) -> str:
        return str(self.run["run"]["id"])


def record(
    run_id: str,
    config: MarkovianRSAConfig,
    model: PretendModel | None = None,
    *,
    question: str = QUESTION,
    preset: str = "16k",
    seed: int = 7,
    age_s: float = 0.0,
) -> Recording:
    """Run the state machine to its end and write down what a journal would."""
    model = model or PretendModel()

    def play() -> tuple[Result | None, float, str]:
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            now = runner.get_loop().time
            try:
                return runner.run(MarkovianRSA(config).run(question, model, seed)), now(), ""
            except OpenZayaError as failure:
                return None, now(), f"{type(failure).__name__}: {failure}"

    # A browser that is driven from this thread runs a loop here; two cannot.
    with ThreadPoolExecutor(1) as thread:
        played = thread.submit(play).result()
    return _Writer(run_id, config, model, question, preset, seed, age_s).write(*played)


@dataclass
class _Writer:
    run_id: str
    config: MarkovianRSAConfig
    model: PretendModel
    question: str
    preset: str
    seed: int
    age_s: float

    def call(self, stage: int, slot: int) -> Call | None:
        return self.model.calls.get(stream_seed(self.seed, "ttc", "sample", stage, slot))

    def view(self, c: Candidate) -> dict[str, Any]:
        call = self.call(c.stage, c.slot)
        assert call is not None
        told = c.to_json()
        for long in ("text", "thinking", "answer_text", "tail"):
            del told[long]
        return {
            **told,
            "parents": list(c.parents),
            "state": "failed" if c.is_failed else "done",
            "error": c.error or None,
            "cached_tokens": call.cached,
            "upstream": "http://localhost:8000",
            "model": "zaya1-8b",
            "queued_s": call.queued,
            "began_s": call.began,
            "first_token_s": call.first,
            "ended_s": call.ended,
        }

    def unheard(self) -> list[dict[str, Any]]:
        """Candidates of a run without a result: all of stage 0 failed."""
        views = []
        for slot in range(self.config.num_candidates):
            call = self.call(0, slot)
            assert call is not None
            views.append(
                {
                    "stage": 0, "slot": slot, "seed": slot, "parents": [], "state": "failed",
                    "answer": None, "is_finished": False, "is_looping": False, "num_tokens": 0,
                    "num_prompt_tokens": 0, "cached_tokens": 0, "finish_reason": "error",
                    "attempts": self.config.max_attempts,
                    "error": "UpstreamError: the upstream closed the connection",
                    "upstream": None, "model": "zaya1-8b", "queued_s": call.queued,
                    "began_s": call.began, "first_token_s": None, "ended_s": call.ended,
                }
            )  # fmt: skip
        return views

    def write(self, result: Result | None, elapsed: float, error: str) -> Recording:
        rounds = result.rounds if result else ()
        made = [c for r in rounds for c in r.candidates]
        views = [self.view(c) for c in made] or self.unheard()
        texts = {(c.stage, c.slot): c for c in made}
        details = []
        for view in views:
            c = texts.get((view["stage"], view["slot"]))
            call = self.call(view["stage"], view["slot"])
            prompt = [{"role": m.role, "content": m.content} for m in call.messages] if call else []
            names = ("text", "thinking", "answer_text", "tail")
            long = {name: getattr(c, name) if c else "" for name in names}
            details.append({**view, "prompt": prompt, **long})
        stages = [
            {
                "stage": r.stage,
                "answers": dict(r.answers),
                "num_tokens": sum(c.num_tokens for c in r.candidates),
                "began_s": min(v["queued_s"] for v in views if v["stage"] == r.stage),
                "ended_s": max(v["ended_s"] for v in views if v["stage"] == r.stage),
            }
            for r in rounds
        ]
        chosen = result.chosen if result else None
        detail = {
            "run": self.summary(result, elapsed, error),
            "question": [{"role": "user", "content": self.question}],
            "config": asdict(self.config),
            "changed": changed({"preset": self.preset, "config": to_mapping(self.config)}),
            "seed": self.seed,
            "notes": list(result.notes) if result else [],
            "template_sha256": result.template_sha256 if result else None,
            "tail_method": self.model.tail_method,
            "stages": stages,
            "candidates": views,
            "winner": {"stage": chosen.stage, "slot": chosen.slot} if chosen else None,
        }
        return Recording(detail, details, self.events(detail, elapsed))

    def summary(self, result: Result | None, elapsed: float, error: str) -> dict[str, Any]:
        usage = result.usage if result else None
        bounds = preview(
            self.config,
            self.model.count_prompt_tokens((Message("user", self.question),)),
            mean_tokens=self.model.mean_tokens,
        )
        return {
            "id": self.run_id,
            "created": CREATED_S - self.age_s,
            "state": "failed" if result is None else "done",
            "model": "zaya1-8b",
            "preset": self.preset,
            "strategy": "",
            "question": self.question[:200],
            "answer": result.answer if result else None,
            "why": result.why if result else "",
            "degraded": bool(result and result.degraded),
            "stages": self.config.num_stages,
            "calls": usage.calls if usage else len(self.model.calls) * self.config.max_attempts,
            "failed_calls": usage.failed_calls if usage else len(self.model.calls) * 3,
            "usage": {
                "generated": usage.generated if usage else 0,
                "generated_by_stage": list(usage.generated_by_stage) if usage else [0],
                "prefill": usage.prefill if usage else 0,
                "cached": sum(call.cached for call in self.model.calls.values()),
                "cap": bounds.decode_cap,
            },
            "preview": asdict(bounds),
            "elapsed_s": elapsed,
            "error": error or None,
        }

    def events(self, detail: dict[str, Any], elapsed: float) -> list[tuple[float, str, Any]]:
        """Return what a follower hears, in order of time."""
        told: list[tuple[float, str, Any]] = []
        for view in detail["candidates"]:
            place = {"stage": view["stage"], "slot": view["slot"]}
            unknown = {
                "answer": None, "is_finished": False, "num_tokens": 0, "ended_s": None,
                "first_token_s": None, "finish_reason": None, "is_looping": False, "error": None,
            }  # fmt: skip
            waits = {**view, **unknown, "state": "queued", "began_s": None}
            told.append((view["queued_s"], "candidate", waits))
            runs = {**view, **unknown, "state": "running"}
            told.append((view["began_s"], "candidate", runs))
            first, ended = view["first_token_s"], view["ended_s"]
            for eighth in range(1, 8) if first is not None else ():
                at = first + (ended - first) * eighth / 8
                tokens = view["num_tokens"] * eighth // 8
                told.append((at, "progress", {**place, "num_tokens": tokens}))
            told.append((ended, "candidate", view))
        told += [(stage["ended_s"], "stage", stage) for stage in detail["stages"]]
        rank = {"candidate": 0, "progress": 1, "stage": 2}
        told.sort(key=lambda e: (e[0], rank[e[1]]))
        unspent = {
            **detail["run"]["usage"],
            "generated": 0,
            "generated_by_stage": [],
            "prefill": 0,
            "cached": 0,
        }
        begun = {
            **detail["run"], "state": "running", "answer": None, "why": "", "elapsed_s": 0.0,
            "calls": 0, "failed_calls": 0, "degraded": False, "usage": unspent,
        }  # fmt: skip
        done = detail["run"]
        return [(0.0, "run", begun), *told, (elapsed, "done", done)]
