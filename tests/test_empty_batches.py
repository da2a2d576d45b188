"""A batch without images gives outputs without images, as torch's own layers do."""
import pytest
import torch

from mmlit import LITv2Classifier, ops
from mmlit.models import HiLoAttention
from mmlit.models.merging import DeformConv2d
from mmlit.ops import ffn as ffn_module

from .conftest import GOLDEN_ARCH
from .test_litv2 import ALL, DIMS, build

forms = pytest.mark.parametrize('form', ['fast', 'reference'])


@forms
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('mode', ['train', 'eval', 'fused'])
@pytest.mark.parametrize('size', [(64, 64), (50, 75)])
def test_backbone(size, mode, autocast, form, monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', 1)  # tiles, if only they could be counted
    model = build(out_indices=ALL).train(mode == 'train')
    if mode == 'fused':
        model.fuse()
    x = torch.zeros(0, 3, *size, requires_grad=True)
    with ops.use(form), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        outs = model(x)
        with torch.no_grad():
            assert [o.shape for o in model(x)] == [o.shape for o in outs]
    h, w = (-(-n // 4) for n in size)
    assert [tuple(o.shape) for o in outs] == [(0, d, h >> i, w >> i) for i, d in enumerate(DIMS)]
    sum(o.float().sum() for o in outs).backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert all(t.isfinite().all() for t in model.state_dict().values())


@forms
def test_classifier(form):
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    with ops.use(form):
        assert model(torch.zeros(0, 3, 64, 64)).shape == (0, 10)
        assert model.eval()(torch.zeros(0, 3, 64, 64)).shape == (0, 10)


@forms
@pytest.mark.parametrize('layer, channels', [
    (lambda: HiLoAttention(32, 4, 2, alpha=0.5), 32), (lambda: HiLoAttention(32, 4, 1), 32),
    (lambda: HiLoAttention(32, 4, 2, alpha=0), 32), (lambda: HiLoAttention(32, 4, 2, alpha=1), 32),
    (lambda: DeformConv2d(32, 8, 2, stride=2), 8), (lambda: DeformConv2d(32, 8, 3, padding=1), 8)])
def test_layers(layer, channels, form):
    layer, x = layer(), torch.zeros(0, 6, 5, 32, requires_grad=True)
    with ops.use(form):
        out = layer(x)
        with torch.no_grad():
            assert layer(x).shape == out.shape
    assert out.shape[0] == 0 and out.shape[3] == channels
    out.sum().backward()
    assert x.grad.shape == x.shape
