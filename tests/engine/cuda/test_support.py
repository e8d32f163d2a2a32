import pytest
import torch
from engine.cuda.small import small_model

from openzaya.core.errors import ConfigError
from openzaya.engine.cuda.support import reason_against
from openzaya.engine.passes import TorchPass, make_pass
from openzaya.model.quantized import QuantizedZaya

CPU = torch.device("cpu")


def test_on_a_cpu_the_kernels_are_refused_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r'on cpu, expected cuda; choose kernels="torch"'):
        make_pass(small_model(), 1, 8, "cuda")


def test_auto_never_takes_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert isinstance(make_pass(small_model(), 1, 8), TorchPass)  # 48 suits no C++ kernel either


def test_shapes_that_the_kernels_cannot_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    float32 = torch.float32
    assert reason_against(small_model().config, float32, CPU) == ""
    assert "float64" in reason_against(small_model().config, torch.float64, CPU)
    for name, value, words in (
        ("head_dim", 8, "head_dim is 8, expected a power of two"),
        ("head_dim", 24, "head_dim is 24, expected a power of two"),
        ("hidden_size", 40, "hidden_size is 40, expected a multiple of 16"),
        ("moe_intermediate_size", 24, "moe_intermediate_size is 24"),
        ("router_hidden_size", 2000, "router_hidden_size is 2000, expected at most 1024"),
    ):
        config = small_model(**{name: value}).config
        assert words in reason_against(config, float32, CPU)


def test_a_quantized_model_is_refused() -> None:
    model = small_model()
    with pytest.raises(ConfigError, match=r"C\+\+ kernels only, and cuda was asked for; load"):
        make_pass(QuantizedZaya(model.config, dict(model.state_dict())), 1, 8, "cuda")
