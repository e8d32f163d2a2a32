"""Weights reach the sampler whole or not at all."""

from collections.abc import Mapping

import pytest
import tiny_rl
import torch
from torch import Tensor

from openzaya.core.errors import EngineError
from openzaya.engine.engine import Engine
from openzaya.rl.pipeline.weight_sync import WeightPublisher, fingerprint, in_process


def pair(transport: object = in_process) -> WeightPublisher:
    trained, sampled = tiny_rl.model(0), tiny_rl.model(1)
    engine = Engine(sampled, max_slots=1, max_tokens=16)
    return WeightPublisher(trained, sampled, engine, transport)  # type: ignore[arg-type]


def test_publishing_copies_every_tensor_and_names_its_age() -> None:
    publisher = pair()
    trained, sampled = publisher.model.state_dict(), publisher.sampler.state_dict()
    assert fingerprint(trained) != fingerprint(sampled)
    version = publisher.publish(7)
    assert fingerprint(trained) == fingerprint(sampled)
    assert version == publisher.engine.weights_version == 1
    assert [publisher.updates_of(v) for v in (0, 1)] == [0, 7]
    assert publisher.published_updates == 7
    next(iter(publisher.model.parameters())).data.add_(1.0)
    assert fingerprint(trained) != fingerprint(publisher.sampler.state_dict())


@pytest.mark.parametrize("damage", ["stale", "missing", "bit", "swapped"])
def test_a_torn_update_is_refused_and_the_sampler_keeps_its_weights(damage: str) -> None:
    def torn(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        staged = in_process(tensors)
        names = [n for n in staged if n.endswith("embed_tokens.weight")]
        if damage == "stale":
            staged[names[0]] = tiny_rl.model(1).state_dict()[names[0]].clone()
        elif damage == "missing":
            del staged[names[0]]
        elif damage == "bit":
            staged[names[0]].view(torch.int32)[3, 1] ^= 1
        else:
            down = [n for n in staged if n.endswith("down_proj")]
            staged[down[0]], staged[down[1]] = staged[down[1]], staged[down[0]]
        return staged

    publisher = pair(torn)
    before = fingerprint(publisher.sampler.state_dict())
    with pytest.raises(EngineError, match="torn"):
        publisher.publish(1)
    assert fingerprint(publisher.sampler.state_dict()) == before
    assert publisher.engine.weights_version == 0


def test_a_shared_model_is_only_named_anew() -> None:
    model = tiny_rl.model()
    publisher = WeightPublisher(model, model, Engine(model, max_slots=1, max_tokens=16))
    before = fingerprint(model.state_dict())
    assert publisher.is_shared
    assert publisher.publish(3) == 1
    assert fingerprint(model.state_dict()) == before
    publisher.restore(9)
    assert publisher.updates_of(1) == 9


def test_the_fingerprint_sees_values_names_shapes_and_dtypes() -> None:
    base = {"a": torch.arange(4.0), "b": torch.ones((), dtype=torch.bfloat16)}
    others = [
        {**base, "a": torch.arange(4.0).view(2, 2)},
        {**base, "a": torch.arange(4.0).view(torch.int32)},
        {"c": base["a"], "b": base["b"]},
        {**base, "b": base["b"] + 1},
    ]
    assert fingerprint(base) == fingerprint(dict(reversed(base.items())))
    assert len({fingerprint(x) for x in [base, *others]}) == 5
