"""On CUDA attention by torch's flash kernels gives what the explicit masks give on a CPU."""

import pytest
import torch
from model.tiny import distance

from openzaya.model.documents import Documents
from openzaya.model.fused.attention import attend_packed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
LENGTHS = [1, 2, 63, 200, 64, 65, 1, 129, 31, 700]
PARTS = [1, 1, 63, 77, 1, 40, 1, 65, 31, 512]


@pytest.mark.parametrize("window", [None, 40, 300])
@pytest.mark.parametrize("counts", [LENGTHS, PARTS], ids=["whole", "parts"])
def test_documents_and_their_last_parts(counts, window):
    draw = torch.Generator().manual_seed(0)
    shapes = (sum(counts), 4, 64), (sum(LENGTHS), 2, 64), (sum(LENGTHS), 2, 64)
    inputs = [torch.randn(shape, generator=draw).bfloat16() for shape in shapes]
    grad = torch.randn(sum(counts), 4 * 64, generator=draw).bfloat16()
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        q, k, v = (x.to(device, dtype).requires_grad_() for x in inputs)
        places = [Documents.of(lengths, q.device) for lengths in (counts, LENGTHS)]
        out = attend_packed(q, k, v, *places, window)
        grads = torch.autograd.grad(out, (q, k, v), grad.to(device, dtype))
        results.append([x.detach().float().cpu() for x in (out, *grads)])
    for exact, found in zip(*results, strict=True):
        assert distance(found, exact) < 2e-2
