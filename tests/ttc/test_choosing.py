"""Who chooses the answer of a run: vote, selection call, verifier, programs; and what they say."""

import asyncio
import shutil
from dataclasses import replace

import pytest
from ttc.fake_sampler import FakeSampler, StreamingSampler, no_sleep

from openzaya.core.errors import ConfigError, SandboxError, UpstreamError
from openzaya.core.records import Served as Server
from openzaya.sandbox import Executor, Limits
from openzaya.ttc import MarkovianRSA, MarkovianRSAConfig
from openzaya.ttc.behaviour import Behaviour, SandboxRuns, VisibleTest, program_of
from openzaya.ttc.judge import named_candidate

VOTE = MarkovianRSAConfig(
    num_candidates=6, tails_per_prompt=3, rounds=0, budget_tokens=60, tail_tokens=20
)
ANSWERS = ["7", "8", "7", "9", "7", "8"]


def run(config, sampler, **parts):
    return asyncio.run(MarkovianRSA(config, sleep=no_sleep, **parts).run("why?", sampler))


def judged_by(reply, answers=ANSWERS):
    """Candidates give these answers; whoever is asked to select says `reply(prompt)`."""

    def script(request, call):
        if "end with the number of the best" in request.messages[-1].content:
            return reply(request.messages[-1].content)
        return f"t{call} t t </think> {answers[call]}"

    return FakeSampler(script)


def answer_in(shown):
    """The last word of a candidate in the prompt of a selection call."""
    return shown.split("\n\n")[0].split()[-1]


UNITS = ["7 cm", "7 m", "7", "7 m", "7 centimeters", "7 cm"]


def test_answers_with_different_units_do_not_vote_together():
    result = run(VOTE, judged_by(str, UNITS))
    assert result.answer == "7 cm"
    assert result.why == "majority: 3 of 6 candidates"
    assert run(VOTE, judged_by(str, ["7 m" if u == "7 m" else u[:1] for u in UNITS])).why == (
        "majority: 6 of 6 candidates"  # one unit, which those without it mean as well
    )


def test_a_selection_call_is_shown_every_unit():
    prompts = []

    def reply(prompt):
        prompts.append(prompt)
        return "so </think> the best is \\boxed{1}"

    run(replace(VOTE, select="judge", judge_tokens=30), judged_by(reply, UNITS))
    assert prompts[0].count("\n\nCandidate ") == 3


# The selection call


def test_a_selection_call_sees_one_candidate_of_each_class_and_its_word_counts():
    prompts = []

    def reply(prompt):
        prompts.append(prompt)
        shown = prompt.split("\n\nCandidate ")[1:]
        (number,) = [i + 1 for i, text in enumerate(shown) if answer_in(text) == "9"]
        return f"so </think> the best is \\boxed{{{number}}}"

    sampler = judged_by(reply)
    result = run(replace(VOTE, select="judge", judge_tokens=30), sampler)
    assert result.answer == "9"
    assert result.why.startswith("selection call: candidate")
    assert prompts[0].count("\n\nCandidate ") == 3
    assert sampler.requests[-1].max_tokens == 30
    assert result.usage.calls == 7
    assert result.usage.selection == 6
    assert result.usage.generated == sum(result.usage.generated_by_stage) + 6
    assert result.usage.prefill == sum(
        sampler.count_prompt_tokens(r.messages) for r in sampler.requests
    )


def test_calls_that_a_server_lost_before_the_selection_call_are_counted():
    class Served(FakeSampler):
        async def sample(self, request):
            told = Server("http://x", "m", attempts=3, queued_s=0.0, first_token_s=None)
            return replace(await super().sample(request), served=told)

    sampler = Served(judged_by(lambda prompt: "so </think> \\boxed{1}").script)
    usage = run(replace(VOTE, select="judge", judge_tokens=30), sampler).usage
    assert (usage.calls, usage.failed_calls) == (7 * 3, 7 * 2)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("I cannot tell </think> none of them", "named no candidate"),
        ("hm </think> \\boxed{17}", "named no candidate"),
        ("thinking of 2 for ever", "named no candidate"),
        (UpstreamError("the judge is ill"), "the selection call failed: the judge is ill"),
    ],
)
def test_where_the_selection_call_names_nobody_the_majority_answers_and_the_reason_says_so(
    reply, said
):
    result = run(replace(VOTE, select="judge"), judged_by(lambda prompt: reply))
    assert result.answer == "7"
    assert result.why.startswith("majority: 3 of 6 candidates (")
    assert said in result.why


def test_a_single_class_of_answers_needs_no_selection_call():
    sampler = judged_by(lambda prompt: "x", answers=["7", "7.0"] * 3)
    result = run(replace(VOTE, select="judge"), sampler)
    assert len(sampler.requests) == 6
    assert result.answer in ("7", "7.0")


def test_with_more_classes_than_tails_the_most_frequent_ones_are_shown():
    prompts = []

    def reply(prompt):
        prompts.append([answer_in(text) for text in prompt.split("\n\nCandidate ")[1:]])
        return "hm </think> 1"

    run(replace(VOTE, select="judge", tails_per_prompt=2), judged_by(reply))
    assert [sorted(shown) for shown in prompts] == [["7", "8"]]


def test_the_number_is_read_from_the_box_or_the_end_of_the_reply():
    assert named_candidate("1 2 </think> not 1 but 3", True, 3) == 3
    assert named_candidate("</think> \\boxed{2} of 3", True, 3) == 2
    assert named_candidate("</think> 4", True, 3) is None
    assert named_candidate("</think> 0", True, 3) is None
    assert named_candidate("</think> Candidate 2.", True, 3) == 2
    for reply in ("not 2; the answer is 1233", "2 is near 0.3", "1,002", "3" * 5000):
        assert named_candidate(f"</think> {reply}", True, 3) is None


def test_without_any_readable_answer_one_selection_call_or_chance_decides():
    """Open point 4: finished candidates whose extract gives nothing."""

    def reply(prompt):
        return f"hm </think> \\boxed{{{1 + prompt.split('Candidate ')[1:].index(last(prompt))}}}"

    def last(prompt):
        return prompt.split("Candidate ")[-1]

    plain = run(VOTE, judged_by(reply), extract=lambda text: None)
    assert plain.why == "no answer could be read: a random finished candidate"
    assert plain.chosen.is_finished
    asked = run(replace(VOTE, fallback="judge"), judged_by(reply), extract=lambda text: None)
    assert asked.why == "selection call: candidate 3 of the 3 shown"
    readable = judged_by(reply)
    run(replace(VOTE, fallback="judge"), readable)
    assert len(readable.requests) == 6


def test_a_stopped_run_makes_no_selection_call():
    async def main():
        stop = asyncio.Event()
        sampler = judged_by(lambda prompt: "x </think> 1")
        solver = MarkovianRSA(replace(VOTE, select="judge", rounds=1))
        told = []

        def listen(event):
            told.extend([event] * (type(event).__name__ == "CandidateDone"))
            if len(told) == 4:
                stop.set()

        result = await solver.run("why?", sampler, on_event=listen, stop=stop)
        return result, sampler

    result, sampler = asyncio.run(main())
    assert result.interrupted
    assert len(result.rounds[0].answers) == 3
    assert not any("number of the best" in r.messages[-1].content for r in sampler.requests)


# The verifier


@pytest.mark.parametrize("is_async", [False, True])
def test_a_verifier_chooses_the_best_score_and_equals_vote(is_async):
    scores = {"7": 0.1, "8": 0.9, "9": 0.9}

    def verifier(candidate):
        return scores[candidate.answer]

    async def slow_verifier(candidate):
        await asyncio.sleep(0)
        return scores[candidate.answer]

    config = replace(VOTE, select="verifier")
    sampler = judged_by(None)
    result = run(config, sampler, verifier=slow_verifier if is_async else verifier)
    assert result.answer == "8"
    assert result.why == "verifier: score 0.9, shared by 3 candidates"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_verifier_that_cannot_say_leaves_it_to_the_majority(nothing):
    result = run(replace(VOTE, select="verifier"), judged_by(None), verifier=lambda c: nothing)
    assert result.answer == "7"
    assert "the verifier could not say" in result.why


@pytest.mark.parametrize("select", ["verifier", "behaviour"])
def test_a_rule_without_what_it_needs_is_refused_before_any_work(select):
    sampler = FakeSampler()
    with pytest.raises(ConfigError, match="choose select = majority"):
        run(replace(VOTE, select=select), sampler)
    assert not sampler.requests


def test_a_single_final_candidate_answers_alone():
    config = replace(VOTE, rounds=1, final_candidates=1, select="final")
    result = run(config, StreamingSampler(lambda r, c: f"a </think> {c}"))
    assert result.why == "the single final candidate"
    assert result.chosen.stage == 1


# Programs

DOUBLE = "print(2 * int(input()))"
SQUARE = "print(int(input()) ** 2)"
CRASH = "raise SystemExit(3)"
DOUBLE_TOO = "n = int(input())\nprint(n + n)"


def programs(*sources):
    """A sampler whose replies keep their lines."""

    class Writing(FakeSampler):
        async def sample(self, request):
            source = sources[len(self.requests) % len(sources)]
            completion = await super().sample(request)
            return replace(completion, text=f"hm </think> so:\n\n```python\n{source}\n```")

    return Writing()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_programs_that_pass_the_visible_tests_win_and_their_outputs_vote():
    """2 * 2 == 2 ** 2: the visible test cannot tell, the vote over another input can."""
    config = replace(VOTE, select="behaviour")
    tests = [VisibleTest("2\n", "4\n"), VisibleTest("5\n")]
    with Executor.default() as executor:
        runs = SandboxRuns(executor, tests, limits=Limits(cpu_s=5.0))
        sampler = programs(SQUARE, CRASH, DOUBLE, CRASH, CRASH, DOUBLE_TOO)
        result = run(config, sampler, runs=runs)
        assert result.chosen.slot in (2, 5)
        assert "passes 1 visible tests, as 3 of 6 candidates do, 2 of them" in result.why
        none = run(config, FakeSampler(lambda r, c: "hm </think> no program"), runs=runs)
    assert "no program could be run" in none.why
    assert none.answer == "no program"


def test_a_sandbox_that_fails_says_nothing_about_programs():
    class Broken:
        async def behaviours(self, answers):
            raise SandboxError("no sandbox here")

    result = run(replace(VOTE, select="behaviour"), judged_by(None), runs=Broken())
    assert result.answer == "7"
    assert "programs could not be run: no sandbox here" in result.why

    class Unsure:
        async def behaviours(self, answers):
            return [None, Behaviour(0, ("x",)), *[None] * (len(answers) - 2)]

    unsure = run(replace(VOTE, select="behaviour"), judged_by(None), runs=Unsure())
    assert unsure.chosen.slot == 1


def test_behaviour_without_tests_is_refused():
    with pytest.raises(ConfigError, match="0 visible tests"):
        SandboxRuns(None, [])


def test_the_last_fenced_block_is_the_program():
    answer = "first\n```py\nold\n```\nthen\n```c++\nint main() {}\n```\nend"
    assert program_of(answer, "python") == ("int main() {}\n", "cpp")
    assert program_of("```\nx = 1\n```", "python") == ("x = 1\n", "python")
    assert program_of("```rust\nfn main() {}\n```", "python") is None
    assert program_of("no block", "python") is None


# An answer that must have a form


@pytest.mark.parametrize("cut", [True, False])
def test_where_only_the_last_stage_has_the_form_no_other_answers(cut):
    def script(request, call):
        is_last = call >= VOTE.num_candidates
        return f"so </think> {'so ' * 60 if is_last and cut else ''}{ANSWERS[call % 6]}"

    config = replace(VOTE, rounds=1)
    assert run(config, FakeSampler(script)).chosen.stage == (0 if cut else 1)
    result = run(config, FakeSampler(script), only_last=True)
    assert (result.chosen.stage, result.chosen.is_finished) == (1, not cut)


def test_a_last_stage_that_failed_leaves_the_answer_to_the_one_before():
    def script(_request, call):
        return (
            UpstreamError("gone") if call >= VOTE.num_candidates else f"so </think> {ANSWERS[call]}"
        )

    result = run(replace(VOTE, rounds=1), FakeSampler(script), only_last=True)
    assert result.degraded
    assert result.answer == "7"
