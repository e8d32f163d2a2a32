"""New weights between two steps: all or none, and nobody meets what old ones computed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from openzaya.core.errors import EngineError
from openzaya.engine.engine import Engine
from openzaya.engine.request import SamplingParams
from openzaya.model.shards import fingerprint
from openzaya.model.zaya import Zaya

PLAIN = SamplingParams(max_tokens=12, seed=3)
PROMPT = [(7 * i) % 40 for i in range(100)]


@pytest.fixture
def models(make_model: Callable[..., Zaya]) -> tuple[Zaya, Zaya]:
    return tuple(make_model(seed, max_position_embeddings=512) for seed in (0, 1))


def generate(model: Zaya) -> list[int]:
    return Engine(model, max_slots=1, max_tokens=200).generate([PROMPT], PLAIN)[0].token_ids


def test_swapped_weights_generate_what_they_generate_in_a_new_engine(
    models: tuple[Zaya, Zaya],
) -> None:
    old, new = models
    engine = Engine(old, max_slots=2, max_tokens=200)
    before = engine.generate([PROMPT], PLAIN)[0]
    state = new.state_dict()
    assert engine.swap_weights(state, fingerprint(state)) == engine.weights_version == 1
    after = engine.generate([PROMPT], PLAIN)[0]
    assert before.token_ids != after.token_ids == generate(new)
    assert set(after.versions) == {1}
    assert engine.stats.prefix_hit_tokens == 0
    # Copied, not shared.
    with torch.no_grad():
        new.embed_tokens.weight.zero_()
    assert old.embed_tokens.weight.abs().max() > 0


def test_a_running_request_goes_on_with_the_cache_that_older_weights_wrote(
    models: tuple[Zaya, Zaya],
) -> None:
    old, new = models
    expected = [generate(old), generate(new)]
    engine = Engine(old, max_slots=2, max_tokens=200)
    engine.add(PROMPT, PLAIN)
    for _ in range(3):
        engine.step()
    engine.swap_weights(new.state_dict())
    computed = engine.stats.tokens_prefilled
    (output,) = [output for _ in range(9) for output in engine.step()]
    assert engine.stats.tokens_prefilled == computed
    assert output.versions == [0] * 4 + [1] * 8
    assert output.token_ids[:4] == expected[0][:4]
    assert output.token_ids not in expected


def spoil(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in state.items()}
    name = "norm.weight"
    changes: dict[str, Any] = {
        "missing": lambda: state.pop(name),
        "unknown": lambda: state.update(extra=torch.zeros(1)),
        "shape": lambda: state.update({name: state[name][:-1]}),
        "dtype": lambda: state.update({name: state[name].double()}),
        "torn": lambda: state[name].add_(1e-3),
    }
    changes[how]()
    return state


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "norm.weight is missing"),
        ("unknown", "extra is unknown"),
        ("shape", r"norm.weight is \(31,\)"),
        ("dtype", "float64, expected"),
        ("torn", "torn"),
    ],
)
def test_weights_that_do_not_fit_or_are_torn_change_nothing(
    models: tuple[Zaya, Zaya], how: str, said: str
) -> None:
    old, new = models
    engine = Engine(old, max_slots=1, max_tokens=200)
    engine.generate([PROMPT], PLAIN)
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    good = new.state_dict()
    with pytest.raises(EngineError, match=said):
        engine.swap_weights(spoil(good, how), fingerprint(good) if how == "torn" else None)
    for name, tensor in old.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert engine.weights_version == 0
    engine.generate([PROMPT], PLAIN)
    assert engine.stats.prefix_hit_tokens == 64


def test_a_fingerprint_covers_names_types_shapes_and_every_byte() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16)}
    same = {"b": base["b"].clone(), "a": base["a"].clone()}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].view(2, 2), "b": base["b"]},
        {"a": base["a"].view(torch.int32), "b": base["b"]},
        {"a": base["a"], "b": torch.tensor([0.0, -0.0], dtype=torch.bfloat16)},
    ]
    assert fingerprint(base) == fingerprint(same)
    assert len({fingerprint(state) for state in (base, *others)}) == 5


def test_a_preempted_request_is_computed_anew_with_the_new_weights(
    models: tuple[Zaya, Zaya],
) -> None:
    old, new = models
    engine = Engine(old, max_slots=3, max_tokens=200, num_blocks=4)
    params = [replace(PLAIN, max_tokens=60, seed=i) for i in range(3)]
    for i, own in enumerate(params):
        engine.add(PROMPT[: 50 + i], own)
    while not engine.stats.preemptions:
        engine.step()
    engine.swap_weights(new.state_dict())
    outputs = {}
    while engine.has_work:
        outputs.update({output.request_id: output for output in engine.step()})
    assert all(len(output.token_ids) == 60 for output in outputs.values())
    assert all(output.versions == sorted(output.versions) for output in outputs.values())
