import importlib.util

import pytest
import torch

from mmlit.analysis import count_flops
from mmlit.benchmark.attention import LAYERS


@torch.no_grad()
@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
@pytest.mark.parametrize('name', LAYERS)
def test_layers(name):
    for size in [(14, 14), (10, 16)]:
        layer = LAYERS[name](24, 4, size).eval()
        x = torch.randn(2, *size, 24)
        out = layer(x)
        assert out.shape == x.shape and not torch.equal(out, x)
        assert count_flops(layer, (*size, 24)) > 14 * 10 * 24 * 24


def test_the_papers_layer():
    layer = LAYERS['HiLo'](768, 12, (14, 14))
    assert f'{count_flops(layer, (14, 14, 768)) / 1e6:.1f}' == '298.3'
    assert f'{sum(p.numel() for p in layer.parameters()) / 1e6:.1f}' == '2.2'
