"""The model on a GPU gives what it gives on the CPU."""
import copy

import pytest
import torch

from mmlit import LITv2Classifier, load_checkpoint

from .conftest import DATA, GOLDEN_ARCH

pytestmark = pytest.mark.gpu


@pytest.fixture
def model():
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    load_checkpoint(model, DATA / 'official_cls.pth')
    return model.eval()


def gradients(model, x, **autocast):
    with torch.autocast(x.device.type, **autocast):
        loss = model(x).float().square().mean()
    loss.backward()
    return {k: p.grad.double().cpu() for k, p in model.named_parameters()}


def test_golden_logits(golden, model):
    data = golden('official_cls')
    logits = model.double().cuda()(data['x'].double().cuda())
    torch.testing.assert_close(logits.cpu(), data['logits'], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_forward_and_backward(golden, model, dtype):
    """The error in a dtype is of the size of its rounding, whatever the device."""
    x = golden('official_cls')['x']
    exact = gradients(copy.deepcopy(model).double(), x.double(), enabled=False)
    enabled = dtype != torch.float32
    on_gpu = gradients(copy.deepcopy(model).cuda(), x.cuda(), dtype=dtype, enabled=enabled)
    tolerance = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.15}[dtype]
    for name, grad in exact.items():
        error = (on_gpu[name] - grad).norm() / grad.norm().clamp(min=1e-6)
        assert error < tolerance, name


@pytest.mark.parametrize('size', [(32, 32), (50, 75), (800, 608)])
def test_sizes_and_batches(model, size):
    backbone = model.backbone.cuda()
    for batch in (1, 3):
        (out, ) = backbone(torch.randn(batch, 3, *size, device='cuda'))
        assert out.shape[0] == batch and out.isfinite().all()
