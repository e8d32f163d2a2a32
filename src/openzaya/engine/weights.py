"""Taking new weights over between two steps: all of them or none.

Paper: IV-C d.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from openzaya.core.errors import EngineError
from openzaya.model.shards import fingerprint


@torch.no_grad()
def replace_weights(
    model: nn.Module, state: Mapping[str, Tensor], expected: str | None = None
) -> None:
    """Copy `state` over the model's parameters and buffers, in place.

    Raises `EngineError`, with the model untouched, unless names, shapes and dtypes are the model's
    and the fingerprint, if one is given, is that of `state`.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own.keys() - state.keys()]
    problems += [f"{name} is unknown" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        found, wanted = state[name], own[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            problems.append(
                f"{name} is {tuple(found.shape)} {found.dtype}, expected {tuple(wanted.shape)} "
                f"{wanted.dtype}"
            )
    if problems:
        raise EngineError(
            f"the new weights do not fit: {min(problems)} ({len(problems)} differences); nothing "
            "was changed: send the state_dict of the same model and dtype"
        )
    if expected is not None and (found_hash := fingerprint(state)) != expected:
        raise EngineError(
            f"the new weights have fingerprint {found_hash}, expected {expected}: they are torn, "
            "and nothing was changed; send them again, between optimizer steps"
        )
    for name, tensor in own.items():
        tensor.copy_(state[name])
