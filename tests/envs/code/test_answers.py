"""The last complete JSON object counts, within bounds, and nothing is evaluated."""

import time

import pytest

from openzaya.core.errors import DataError
from openzaya.envs.code.answers import last_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"output": 3}', 3),
        ('so {"output": 3} no, {"output": [4, {"a": null}]} done', [4, {"a": None}]),
        ('{"output": 3} and {"input": 4}', 3),
        ('```json\n{"output": "a}b{"}\n```', "a}b{"),
        ('{"output": 3} {"output": ', 3),
        ('{"output": true}', True),
        ('{"output": {"output": 5}}', 5),
        ("{'output': 3} {\"output\": -0.5}", -0.5),
    ],
)
def test_the_last_complete_object_with_the_key_counts(text, value):
    found = last_object(text, "output")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        '{"Output": 3}',
        '{"output": 3, "more": 1}',
        '{"output": NaN}',
        '{"output": 1e999}',
        '{"output": 1, "output": 2}',
        '{"output": (1, 2)}',
        "{'output': 3}",
        '{"output": __import__("os")}',
        '{"output": ' + "9" * 5_000 + "}",
        '{"output": "' + "a" * 100 + '"}',
        '{"output": [' + "1, " * 19 + "1]}",
        '{"output": ["' + '", "'.join("a" * 90 for _ in range(13)) + '"]}',
        '{"output": ' + "[" * 90 + "]" * 90 + "}",
        '{"output": \u0663}',
        "x" * 20_000 + '{"output": 3}',
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(DataError):
        last_object(text, "output")


@pytest.mark.parametrize("text", ["{" * 16_000, '{"output":' * 1_600, '{"a":[' * 2_600])
def test_piles_of_braces_cost_little(text):
    start = time.process_time()
    with pytest.raises(DataError):
        last_object(text, "output")
    assert time.process_time() - start < 0.5
