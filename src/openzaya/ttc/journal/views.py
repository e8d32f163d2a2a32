"""What the journal shows of runs and candidates: plain JSON, computed from its rows alone."""

from collections.abc import Sequence

from openzaya.core.config import to_mapping
from openzaya.text.tails import AGGREGATION_TEMPLATE_SHA256
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.journal.candidates import View, is_complete
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import RowDamagedError, UnknownRunError
from openzaya.ttc.journal.history import History, Record, readable
from openzaya.ttc.journal.rows import (
    Place,
    RunRow,
    list_runs,
    load_deltas,
)
from openzaya.ttc.journal.spec import ENDED
from openzaya.ttc.presets import presets
from openzaya.ttc.selection import histogram

QUESTION_CHARS = 200
_UNENDED = ("queued", "running", "interrupted")


def summaries(
    database: Database,
    limit: int,
    before: str | None = None,
    state: str | None = None,
    tenant: str | None = None,
) -> list[View]:
    """Return RunSummary dicts, newest first.

    Whether a run that nobody ended is running depends on its owner, so those are looked at singly.
    """
    states: tuple[str, ...] = _UNENDED
    if state is None:
        states = (*_UNENDED, "done", "failed", "cancelled")
    elif state in ENDED - {"interrupted"}:
        states = (state,)
    found: list[View] = []
    while len(found) < limit:
        rows = list_runs(database, limit, before, states, tenant)
        for row in rows:
            if state is None or row.shown_state(database.now_s()) == state:
                found.append(_summary_of(database, row))
        if len(rows) < limit:
            break
        before = rows[-1].id
    return found[:limit]


def _summary_of(database: Database, row: RunRow) -> View:
    """Return a RunSummary; the events are only read of runs that nobody ended, or that need it."""
    damage: list[str] = []
    spec = readable(database, row.id, "spec", damage)
    outcome = readable(database, row.id, "outcome", damage)
    if "usage" in outcome and "elapsed_s" in outcome:
        shown = summary(row.id, row.created_s, row.state, spec, outcome)
    else:
        shown = _summary(database, row, Record(spec, outcome, History.of(database, row.id)))
    return {**shown, "error": "; ".join([shown["error"], *damage])} if damage else shown


def _summary(database: Database, row: RunRow, record: Record) -> View:
    """Return the RunSummary of a run, the time and tokens so far of one that nobody ended."""
    now_s, outcome = database.now_s(), dict(record.outcome)
    if "elapsed_s" not in outcome:
        is_live, history = row.is_live(now_s), record.history
        outcome["elapsed_s"] = now_s - row.clock_s if is_live else history.at_s
    if "usage" not in outcome:
        outcome["usage"] = usage_so_far(record.history.views(), outcome)
    return summary(row.id, row.created_s, row.shown_state(now_s), record.spec, outcome)


def summary(run_id: str, created_s: float, state: str, spec: View, outcome: View) -> View:
    """Return the RunSummary of a run whose outcome says how long it took and what it used."""
    usage = dict(outcome["usage"])
    return {
        "id": run_id,
        "created": created_s,
        "state": state,
        "model": spec["model"],
        "preset": spec["preset"],
        "strategy": spec["strategy"],
        "question": spec["question"][-1]["content"][:QUESTION_CHARS],
        "answer": outcome.get("answer"),
        "why": outcome.get("why", ""),
        "degraded": outcome.get("degraded", False),
        "stages": spec["config"].get("rounds", 0) + 1,
        "calls": usage.pop("calls"),
        "failed_calls": usage.pop("failed_calls"),
        "usage": usage,
        "preview": outcome.get("preview"),
        "elapsed_s": max(0.0, outcome["elapsed_s"]),
        "error": outcome.get("error", ""),
    }


def usage_so_far(views: Sequence[View], outcome: View) -> View:
    """Return the usage of a run by its candidates."""
    by_stage: dict[int, int] = {}
    for view in views:
        by_stage[view["stage"]] = by_stage.get(view["stage"], 0) + view["num_tokens"]
    preview = outcome.get("preview") or {}
    return {
        "generated": sum(by_stage.values()),
        "generated_by_stage": [by_stage[stage] for stage in sorted(by_stage)],
        "prefill": sum(view["num_prompt_tokens"] for view in views),
        "cached": sum(view["cached_tokens"] or 0 for view in views),
        "cap": preview.get("decode_cap"),
        "calls": sum(view["attempts"] for view in views),
        "failed_calls": sum(_failed_calls(view) for view in views),
    }


def _failed_calls(view: View) -> int:
    return int(view["attempts"] if view["error"] else max(0, view["attempts"] - 1))


def detail(database: Database, row: RunRow, record: Record) -> View:
    """Return the RunDetail of a run."""
    spec, outcome, views = record.spec, record.outcome, record.history.views()
    shown = _summary(database, row, record)
    is_over = shown["state"] in ENDED
    for view in views:
        if is_over and view["state"] == "running":
            view["state"] = "cut"
    return {
        "run": shown,
        "question": spec["question"],
        "config": spec["config"],
        "changed": changed(spec),
        "seed": spec["seed"],
        "question_tokens": outcome.get("question_tokens", 0),
        "notes": outcome.get("notes", []),
        "template_sha256": outcome.get("template_sha256", AGGREGATION_TEMPLATE_SHA256),
        "tail_method": outcome.get("tail_method"),
        "stages": _stages(views, record.history.stages),
        "candidates": views,
        "winner": outcome.get("winner"),
        "damage": list(record.damage),
    }


def changed(spec: View) -> View:
    """Return what the preset of a run, or no preset, has where the run's settings differ."""
    usual = to_mapping(presets.get(spec["preset"], MarkovianRSAConfig()))
    own = spec["config"]
    return {name: usual.get(name) for name in own if own[name] != usual.get(name)}


def _stages(views: Sequence[View], ended: dict[int, View]) -> list[View]:
    stages = []
    for stage in sorted({view["stage"] for view in views} | ended.keys()):
        mine = [view for view in views if view["stage"] == stage]
        begun = [view["queued_s"] for view in mine if view["queued_s"] is not None]
        entry = ended.get(stage, {})
        stages.append(
            {
                "stage": stage,
                "answers": entry.get("answers") or histogram([view["answer"] for view in mine]),
                "num_tokens": sum(v["num_tokens"] for v in mine),
                "began_s": min(begun, default=None),
                "ended_s": entry.get("ended_s"),
            }
        )
    return stages


def candidate_detail(
    database: Database, history: History, place: Place, *, prompt: bool = True
) -> View:
    """Return the CandidateDetail of one candidate; of an unfinished one the text so far.

    Raises UnknownRunError, JournalDamagedError.
    """
    if place not in history:
        damage = "".join(f"; {text}" for text in history.damage.values())
        raise UnknownRunError(
            f"run {history.run_id} has no candidate {place[0]}/{place[1]}{damage}"
        )
    found = marked_detail(database, history, place, prompt=prompt)
    if found["damage"]:
        raise RowDamagedError(found["damage"])
    return found


def marked_detail(
    database: Database, history: History, place: Place, *, prompt: bool = True
) -> View:
    """Return the CandidateDetail of one candidate; its `damage` says what could not be read."""
    view, damage = history.view(place), ""
    texts = {"text": "", "thinking": "", "answer_text": "", "tail": ""}
    asked: View = {"prompt": []} if prompt else {}
    try:
        if is_complete(view):
            texts = history.texts(database, place)
        else:
            pieces = load_deltas(database, history.run_id, *place)
            texts["text"] = "".join(piece["text"] for piece in pieces)
        if prompt:
            asked["prompt"] = history.prompt(database, place)
    except RowDamagedError as error:
        damage = str(error)
    return {**view, **asked, **texts, "damage": damage}
