"""In half precision, faster forms are as near to float64 as the plain forms are.

Triton's kernels are compared one by one (ops/test_gpu_kernels.py): its interpreter cuts float32
down to bfloat16 where GPUs round, which adds up in a whole model.
"""
import copy

import pytest
import torch

from mmlit import LITv2Classifier, load_checkpoint, ops
from mmlit.ops import ffn as ffn_module

from .conftest import DATA, GOLDEN_ARCH, needs_torch

dtypes = pytest.mark.parametrize('dtype', [
    torch.bfloat16,
    pytest.param(torch.float16, marks=needs_torch((2, 4), 'CPUs lack float16'))], ids=str)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', 4096)  # tiles in training, too
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    load_checkpoint(model, DATA / 'official_cls.pth')
    return model.eval()


def results(model, x, form, autocast=None) -> list[torch.Tensor]:
    """Logits and gradients."""
    model = copy.deepcopy(model)
    with ops.use(form):
        with torch.autocast('cpu', autocast, enabled=autocast is not None):
            logits = model(x)
        logits.double().square().mean().backward()
    return [logits.detach(), *(p.grad for p in model.parameters())]


def error(actual, exact) -> float:
    """Root mean square, over tensors, of their relative errors."""
    errors = [(a.double() - b).norm() / b.norm().clamp(min=1e-9)
              for a, b in zip(actual, exact, strict=True)]
    return torch.stack(errors).square().mean().sqrt().item()


@pytest.mark.parametrize('autocast', [False, True])
@dtypes
def test_as_exact_as_the_plain_forms(golden, model, dtype, autocast):
    x = golden('official_cls')['x']
    exact = results(copy.deepcopy(model).double(), x.double(), 'reference')
    if autocast:
        found = [results(model, x.float(), f, dtype) for f in ('reference', 'fast')]
    else:
        found = [results(model.to(dtype), x.to(dtype), f) for f in ('reference', 'fast')]
    assert found[1][0].dtype == found[0][0].dtype == dtype
    reference, fast = (error(f, exact) for f in found)
    assert 0 < fast < 1.2 * reference


@torch.no_grad()
@dtypes
def test_fused(golden, model, dtype):
    x = golden('official_cls')['x']
    exact = [copy.deepcopy(model).double()(x.double())]
    with ops.use('reference'):
        reference = error([copy.deepcopy(model).to(dtype)(x.to(dtype))], exact)
    assert error([model.fuse().to(dtype)(x.to(dtype))], exact) < 2 * reference  # of 40 numbers
