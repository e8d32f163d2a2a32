"""Where a model runs: the choice, and that it runs there."""

import asyncio
from pathlib import Path

import pytest
import torch

from openzaya.backends import placing
from openzaya.backends.local import load_local_sampler
from openzaya.cli import main as cli
from openzaya.core.errors import ConfigError
from openzaya.core.records import Message, SampleRequest

NANO = Path(__file__).parents[2] / "src" / "openzaya" / "assets" / "nano"
NANO_BYTES = 7_600_000


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU; return how to say what is free on it."""
    monkeypatch.setattr(placing, "choose_device", lambda: "cuda")

    def has(free: int) -> None:
        monkeypatch.setattr(placing, "free_bytes", lambda _: free)

    has(80 << 30)
    return has


def test_a_model_goes_where_it_fits_and_pays(gpu, monkeypatch):
    assert placing.device_of(NANO) == "cpu"  # small
    monkeypatch.setattr(placing, "MIN_BYTES_GPU", 1 << 20)
    assert placing.device_of(NANO) == "cuda"
    gpu(int(NANO_BYTES / 0.7))
    assert placing.device_of(NANO) == "cuda"
    gpu(int(NANO_BYTES / 0.9))
    assert placing.device_of(NANO) == "cpu"
    monkeypatch.setattr(placing, "choose_device", lambda: "cpu")
    gpu(80 << 30)
    assert placing.device_of(NANO) == "cpu"


def test_quantized_weights_stay_on_the_cpu(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(placing, "MIN_BYTES_GPU", 0)
    assert cli.main(["convert", str(NANO), str(tmp_path / "int8"), "--weights", "int8"]) == 0
    assert placing.device_of(tmp_path / "int8") == "cpu"


def test_a_device_that_is_named_is_taken_or_refused(gpu, monkeypatch):
    assert placing.device_of(NANO, "cpu") == "cpu"
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda"):
        placing.device_of(NANO, "tpu")
    monkeypatch.setattr(placing.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device is cuda, and torch .* finds none"):
        placing.device_of(NANO, "cuda")
    monkeypatch.setattr(placing.torch.cuda, "is_available", lambda: True)
    assert placing.device_of(NANO, "cuda") == "cuda"


def test_a_cache_leaves_room_on_either_device(gpu):
    gpu(1000)
    assert placing.cache_bytes(torch.device("cpu")) == 500
    assert placing.cache_bytes(torch.device("cuda")) == 800


@pytest.mark.gpu
def test_the_sampler_answers_the_same_on_a_gpu():
    request = SampleRequest(
        messages=(Message(role="user", content="sort qdkax"),),
        max_tokens=64,
        temperature=0.0,
        seed=0,
    )
    texts = []
    for device in ("cpu", "cuda"):
        with load_local_sampler(NANO, max_slots=2, max_tokens=512, device=device) as sampler:
            texts.append(asyncio.run(sampler.sample(request)).text)
    assert texts[0] == texts[1]
