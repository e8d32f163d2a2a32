"""Router replay: the trainer's log-probabilities are the sampler's."""

import numpy as np
import pytest
import tiny_rl
import torch

from openzaya.core.errors import DataError
from openzaya.engine.engine import Engine
from openzaya.engine.request import Output, SamplingParams
from openzaya.rl.pipeline.actor import ActorStats
from openzaya.rl.pipeline.packer import pack_groups
from openzaya.rl.pipeline.trainer import replayed_logprobs
from openzaya.rl.router_replay import measure_parity, route_problem
from openzaya.rl.stages import RLStage

PROMPTS = [[1, 20, 21], [1, 30], [1, 20, 21], [5, 6, 7, 8]]


def sample(stage: RLStage, temperature: float = 1.0) -> list[Output]:
    params = SamplingParams(
        max_tokens=12, temperature=temperature, seed=3, stop_token_ids=(2,), capture_experts=True
    )
    return stage.engine.generate(PROMPTS, params)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_packed_forward_with_replayed_routes_gives_the_samplers_log_probabilities(
    temperature: float,
) -> None:
    stage = tiny_rl.stage()
    outputs = sample(stage, temperature)
    parity = measure_parity(stage.model, PROMPTS, outputs, temperature=temperature)
    assert parity.num_tokens == sum(len(o.token_ids) for o in outputs)
    assert parity.max_difference < 1e-4
    assert 0 <= parity.kl < 1e-8
    assert parity.pearson > 0.9999
    wrong = measure_parity(stage.model, PROMPTS, outputs, temperature=temperature + 0.5)
    assert wrong.max_difference > 1e-2


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainer_sees_what_the_actor_recorded_at_the_sampling_temperature(
    temperature: float,
) -> None:
    stage = tiny_rl.stage(tiny_rl.config(temperature=temperature))
    groups = stage.actor.rollout(tiny_rl.prompts(0, 0, stage.pool), 0, 0, ActorStats())
    device = torch.device("cpu")
    for packed in pack_groups(groups, torch.ones(3, 4), 60, device):
        with torch.no_grad():
            logprobs = replayed_logprobs(stage.model, packed, stage.trainer.config.temperature)
            torch.testing.assert_close(logprobs, packed.logprobs_N, atol=1e-4, rtol=0)
    update = stage.trainer.update(groups, 0)
    assert update.figures["rl/mismatch_kl"] < 1e-7


def test_replay_follows_the_recorded_routes_and_not_the_routers_new_choice() -> None:
    """Biases moved after sampling: free routing disagrees, replay agrees to the last bits."""
    stage = tiny_rl.stage(seed=3)
    stage.model.init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, parameter in stage.model.named_parameters():
            if "experts" in name:
                parameter.mul_(8.0)
    outputs = sample(stage)
    for balance_x in stage.model.router_biases():
        balance_x[:-1] = balance_x[:-1].flip(0) + torch.tensor([0.5, 0.0, -0.5, 0.2])
    replayed = measure_parity(stage.model, PROMPTS, outputs)
    free = measure_parity(stage.model, PROMPTS, outputs, replay=False)
    assert replayed.max_difference < 1e-4
    assert free.max_difference > 10 * replayed.max_difference
    assert free.kl > replayed.kl


def test_the_trainers_chunked_log_probabilities_are_those_of_one_chunk_with_the_same_gradient() -> (
    None
):
    model = tiny_rl.model()
    made = tiny_rl.group([0.0, 1.0], lengths=[5, 7])
    (packed,) = pack_groups([made], torch.tensor([[-1.0, 1.0]]), 100, torch.device("cpu"))

    def gradient(logits_at_once: int) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logprobs = replayed_logprobs(model, packed, 0.8, logits_at_once)
        (logprobs * packed.advantages_N).sum().backward()
        assert model.embed_tokens.weight.grad is not None
        return logprobs.detach(), model.embed_tokens.weight.grad.clone()

    whole, whole_grad = gradient(1 << 20)
    parts, parts_grad = gradient(5 * model.config.vocab_size)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(parts_grad, whole_grad)


def test_gates_stay_live_so_routers_learn_through_replay() -> None:
    model = tiny_rl.model()
    made = tiny_rl.group([0.0, 1.0])
    (packed,) = pack_groups([made], torch.tensor([[-1.0, 1.0]]), 100, torch.device("cpu"))
    replayed_logprobs(model, packed, 1.0).sum().backward()
    router = [p for name, p in model.named_parameters() if "out_proj" in name and "router" in name]
    assert router
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router)


def test_misaligned_routes_are_recognized() -> None:
    routes = np.zeros((5, 2), dtype=np.uint8)
    assert route_problem(routes, 5, 2, 4) == ""
    assert route_problem(np.full((5, 2), 4, dtype=np.uint8), 5, 2, 4) == ""
    assert "class 5" in route_problem(np.full((5, 2), 5, dtype=np.uint8), 5, 2, 4)
    assert "shape" in route_problem(routes, 6, 2, 4)
    assert "shape" in route_problem(routes, 5, 3, 4)
    assert "no routes" in route_problem(None, 5, 2, 4)


def test_parity_needs_routes_and_tokens() -> None:
    stage = tiny_rl.stage()
    engine = Engine(stage.model, max_slots=4, max_tokens=32)
    plain = engine.generate(PROMPTS, SamplingParams(max_tokens=2))
    with pytest.raises(DataError, match="capture_experts"):
        measure_parity(stage.model, PROMPTS, plain)
    with pytest.raises(DataError, match="0 sampled tokens"):
        measure_parity(stage.model, [], [])
