"""Rotary position embedding on the first part of each head, half-split pairs.

Paper: II.
"""

import torch
from torch import Tensor


def rope_tables(positions_N: Tensor, theta: float, rotary_dim: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of every position and frequency, both [N, rotary_dim / 2] in fp32."""
    steps_J = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions_N.device)
    frequencies_J = 1.0 / (theta ** (steps_J / rotary_dim))
    angles_NJ = positions_N.to(torch.float32).unsqueeze(-1) * frequencies_J
    return angles_NJ.cos(), angles_NJ.sin()


def rotate(x_HNP: Tensor, cos_NJ: Tensor, sin_NJ: Tensor) -> Tensor:
    """Rotate channel j with channel j + J of every head; the channels from 2J on pass."""
    half = cos_NJ.shape[-1]
    first_HNJ, second_HNJ = x_HNP[..., :half], x_HNP[..., half : 2 * half]
    return torch.cat(
        (
            first_HNJ * cos_NJ - second_HNJ * sin_NJ,
            second_HNJ * cos_NJ + first_HNJ * sin_NJ,
            x_HNP[..., 2 * half :],
        ),
        dim=-1,
    )
