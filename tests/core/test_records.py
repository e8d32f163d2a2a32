"""Verdicts and the error tree."""

import pytest

from openzaya.core import errors
from openzaya.core.records import Judgement, infra, right, wrong


def test_an_infra_verdict_can_never_become_a_reward():
    assert right().reward == 1.0
    assert wrong("off by one", score=0.9).reward == 0.0
    with pytest.raises(ValueError, match="mask"):
        _ = infra("sandbox died").reward
    assert infra("x").judgement is Judgement.INFRA


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.EnvError, 2),
        (errors.RequestError, 2),
        (errors.ContextLengthError, 2),
        (errors.CheckpointError, 3),
        (errors.UpstreamError, 4),
        (errors.EngineError, 1),
        (errors.SandboxError, 1),
    ],
)
def test_each_error_has_the_exit_code_of_the_drawn_tree(error, code):
    assert error.exit_code == code
    assert issubclass(error, errors.OpenZayaError)
