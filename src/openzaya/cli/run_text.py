"""Recorded runs as text: a list of them; of one its stages, tokens, and who saw whose tail."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from openzaya.cli.progress import clip, printable

View = Mapping[str, Any]
LISTED = ("id", "began", "state", "preset", " tokens", "question", "answer")


def list_text(runs: Sequence[View], width: int) -> str:
    """Return a table of RunSummaries, or four lines for each where it is wider than `width`."""
    rows = [LISTED, *map(cells, runs)]
    sizes = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if sum(sizes) + 2 * (len(sizes) - 1) <= width:
        padded = ([set_cell_size(*cell) for cell in zip(row, sizes, strict=True)] for row in rows)
        return "\n".join("  ".join(row).rstrip() for row in padded)
    return "\n".join(
        f"{run_id}  {state}\n  {began}, {preset}, {tokens.strip()} tokens\n  {asked}\n  -> {answer}"
        for run_id, began, state, preset, tokens, asked, answer in rows[1:]
    )


def cells(run: View) -> tuple[str, ...]:
    """Return a RunSummary as the cells of its line."""
    began = datetime.fromtimestamp(run["created"]).strftime("%Y-%m-%d %H:%M")
    facts = (run["state"], run["preset"] or "-", f"{run['usage']['generated']:>7}")
    return (run["id"], began, *facts, clip(run["question"]), clip(run["answer"] or run["error"]))


def run_text(detail: View) -> str:
    """Return a RunDetail as lines."""
    run, usage = detail["run"], detail["run"]["usage"]
    asked = printable(detail["question"][-1]["content"])
    lines = [
        f"run {run['id']}: {run['state']}, {run['elapsed_s']:.1f} s",
        f"question: {asked}",
        f"answer:   {printable(run['answer'] or '(none yet)')}",
        f"why:      {run['why'] or '-'}" + (" (degraded)" if run["degraded"] else ""),
        f"model:    {run['model']}, preset {run['preset'] or '-'}, seed {detail['seed']}",
        f"tokens:   {usage['generated']} of at most {usage['cap']} generated, "
        f"{usage['prefill']} prompt, {run['calls']} calls, {run['failed_calls']} failed",
    ]
    lines += [f"error:    {printable(run['error'])}"] if run["error"] else []
    lines += [f"note:     {printable(note)}" for note in detail["notes"]]
    lines += [f"lost:     {printable(damage)}" for damage in detail["damage"]]
    ancestors = winners(detail)
    for stage in detail["stages"]:
        answers = ", ".join(f"{clip(a)} ({n})" for a, n in stage["answers"].items())
        lines += ["", f"stage {stage['stage']}: {stage['num_tokens']} tokens; {answers or '-'}"]
        mine = [c for c in detail["candidates"] if c["stage"] == stage["stage"]]
        lines += [candidate_line(view, ancestors) for view in mine]
    if ancestors:
        lines += ["", "* the answer and its ancestors"]
    return "\n".join(lines)


def winners(detail: View) -> set[tuple[int, int]]:
    """Return the places of the chosen candidate and of all whose tails led to it."""
    if detail["winner"] is None:
        return set()
    parents = {(c["stage"], c["slot"]): c["parents"] for c in detail["candidates"]}
    found: set[tuple[int, int]] = set()
    open_places = [(detail["winner"]["stage"], detail["winner"]["slot"])]
    while open_places:
        stage, slot = open_places.pop()
        if (stage, slot) not in found:
            found.add((stage, slot))
            open_places += [(stage - 1, parent) for parent in parents.get((stage, slot), ())]
    return found


def candidate_line(view: View, ancestors: set[tuple[int, int]]) -> str:
    """Return one candidate as one line."""
    mark = "*" if (view["stage"], view["slot"]) in ancestors else " "
    seen = ",".join(map(str, view["parents"]))
    what = view["answer"] or view["error"] or ("(unfinished)" if view["finish_reason"] else "")
    lineage = f"<- {seen}" if seen else ""
    return (
        f" {mark}{view['slot']:>3} {lineage:<14} {view['state']:<8} "
        f"{view['num_tokens']:>7} tokens  {clip(what)}"
    ).rstrip()


def candidate_text(found: View) -> str:
    """Return a CandidateDetail: its prompt, then its tail."""
    parts = [candidate_line(found, set()).strip()]
    for message in found["prompt"]:
        parts.append(f"\n--- {message['role']}\n{printable(message['content'])}")
    shown = found["tail"] or found["text"]
    parts.append(f"\n--- tail\n{printable(shown)}")
    if found["answer_text"]:
        parts.append(f"\n--- answer\n{printable(found['answer_text'])}")
    return "\n".join(parts)
