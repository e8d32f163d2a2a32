"""Which text of a reply is the program."""

import pytest

from openzaya.envs.code.extract import extract_program, program_of

A = "print(1)\n"
B = "print(2)\n"


def fenced(text, tag="python", fence="```"):
    return f"{fence}{tag}\n{text}{fence}"


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        (fenced(A), A),
        (f"First:\n{fenced(A)}\nBetter:\n{fenced(B)}\nDone.", B),
        (f"{fenced(A)}\n```text\n6\n```", A),  # sample output is no program
        (f"{fenced(A, '')}", A),
        (f"{fenced(A)}\n{fenced(B, '')}", A),  # a tagged block beats an untagged one
        (f"{fenced(A, 'Python3')}", A),
        (f"{fenced(A, 'python title=main.py')}", A),
        (f"{fenced(A, '{.python}')}", A),
        (fenced(A, fence="~~~"), A),
        (fenced("x = '''\n```\n'''\n", fence="````"), "x = '''\n```\n'''\n"),
        ("1. like this:\n   ```python\n   if 1:\n       print(1)\n   ```", "if 1:\n    print(1)\n"),
        (fenced("print(1)\r\n").replace("\n", "\r\n"), A),
    ],
)
def test_the_last_block_in_a_fitting_language_is_the_program(answer, source):
    found = program_of(answer)
    assert (found.source, found.language, found.reason) == (source, "python", "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no code block"),
        ("print(1)", "no code block"),
        (fenced("int main() {}\n", "cpp"), "no code block"),
        (fenced("", "python"), "empty"),
        ("```python\nprint(1)\n", "never closed"),
        (f"{fenced(A)}\n```python\nprint(", "never closed"),
        (fenced("#" * 70_000 + "\n"), "70001 characters"),
    ],
)
def test_a_reply_without_a_whole_program_is_refused_with_a_reason(answer, reason):
    found = program_of(answer)
    assert found.source == ""
    assert reason in found.reason


def test_only_the_text_after_the_closing_marker_counts():
    inside = f"{fenced(A)}\n</think>\n\nNo code here."
    assert "no code block" in extract_program(inside).reason
    assert "never closed" in extract_program(fenced(A)).reason
    assert extract_program(f"{fenced(A)}</think>\n{fenced(B)}").source == B
    assert extract_program(fenced(A), started_in_think=False).source == A


def test_the_last_of_several_programs_counts():
    assert program_of(f"{fenced(A)}\n{fenced(B)}").source == B


def test_the_language_follows_the_tag():
    answer = f"{fenced(A)}\n{fenced('int main() {}', 'C++')}".replace("{}```", "{}\n```")
    found = program_of(answer, languages=("python", "cpp"))
    assert (found.language, found.source) == ("cpp", "int main() {}\n")
    assert program_of(answer).source == A


def test_many_fences_cost_linear_time():
    answer = "```\n" * 20_001 + fenced(A)
    found = program_of(answer)
    assert found.reason or found.source
