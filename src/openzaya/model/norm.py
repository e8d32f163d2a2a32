"""Root-mean-square normalization of the residual stream and of the router's latent state."""

import torch
from torch import Tensor, nn

from openzaya.model.precision import Rules, is_low, raise_to_fp32
from openzaya.model.rows import tiles

Context = torch.autograd.function.FunctionCtx


class RMSNorm(nn.Module):
    """Scale each row to unit mean square, then by a learned vector.

    Paper: II.
    Deviation: D-006.
    """

    weight: Tensor

    def __init__(self, width: int, eps: float, rules: Rules) -> None:
        """Make the norm of rows of `width` channels."""
        super().__init__()
        self.eps = eps
        self.rules = rules
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Normalize N rows; the result has the weight's dtype.

        transformers rounds the input to the weight's dtype before the norm and multiplies by the
        weight after rounding; the paper's set rounds once, at the end.
        """
        weight_D = self.weight
        if not is_low(weight_D.dtype):
            y_ND: Tensor = _FusedRMSNorm.apply(x_ND, weight_D, self.eps)  # type: ignore[no-untyped-call]
            return y_ND
        if self.rules.fp32_norm:
            y_ND = _FusedRMSNorm.apply(raise_to_fp32(x_ND), weight_D.float(), self.eps)  # type: ignore[no-untyped-call]
            return y_ND.to(weight_D.dtype)
        wide_ND = x_ND.to(weight_D.dtype).float()
        scale_N1 = torch.rsqrt(wide_ND.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        rounded_ND: Tensor = weight_D * (wide_ND * scale_N1).to(weight_D.dtype)
        return rounded_ND


class _FusedRMSNorm(torch.autograd.Function):
    """RMSNorm with a backward pass that recomputes the normalized rows.

    Saves one [N, 1] vector instead of two [N, D] tensors: on CPU these passes over memory are a
    large part of a small model's step. The backward pass takes a cacheful of rows at a time.
    """

    @staticmethod
    def forward(ctx: Context, *args: object) -> Tensor:
        x_ND, weight_D, eps = args
        assert isinstance(x_ND, Tensor)
        assert isinstance(weight_D, Tensor)
        assert isinstance(eps, float)
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        scale_N1 = norm_N1.square_().div_(x_ND.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        y_ND: Tensor = (x_ND * scale_N1).mul_(weight_D)
        return y_ND

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_D, scale_N1 = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_ND = grads[0].contiguous()
        x_grad_ND = torch.empty_like(grad_ND)
        weight_grad_D = torch.zeros_like(weight_D)
        for x, scale, grad, x_grad in tiles(x_ND, scale_N1, grad_ND, x_grad_ND):
            unit = x * scale
            product = grad * unit
            weight_grad_D += product.sum(dim=0)
            mean = (product @ weight_D).div_(x.shape[-1]).unsqueeze(-1)
            torch.mul(grad, weight_D, out=x_grad)
            x_grad.addcmul_(unit, mean, value=-1).mul_(scale)
        return x_grad_ND, weight_grad_D, None
