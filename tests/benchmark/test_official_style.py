import pytest
import torch

from mmlit import LITv2, LITv2Classifier
from mmlit.benchmark import official_style
from mmlit.benchmark.official_style import OfficialStyle
from mmlit.errors import ArgumentError

from ..conftest import GOLDEN_ARCH
from ..test_litv2 import build, images

SIZES = [(64, 64), (50, 75), (96, 33)]


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(params=['mmcv', 'mmlit'])
def deform_conv(request, monkeypatch):
    """Both deformable convolutions, where mmcv has its ops."""
    if request.param == 'mmlit':
        monkeypatch.setattr(official_style, 'mmcv_deform_conv2d', None)
    elif official_style.mmcv_deform_conv2d is None:
        pytest.skip('mmcv is absent, or has no compiled ops')


@pytest.mark.parametrize('window', [2, 3, 4])
def test_backbone(window, deform_conv):
    model = build(out_indices=(0, 1, 2, 3), norm_indices=(1, 2, 3),
                  window_size=[0, 0, window, 1]).double().eval()
    for size in SIZES:
        with torch.no_grad():
            outs, expected = (m(images(2, *size).double()) for m in (OfficialStyle(model), model))
        for a, b in zip(outs, expected, strict=True):
            assert a.is_contiguous()
            assert_equal(a, b)


@pytest.mark.parametrize('alpha', [0., 0.5, 1.])
def test_classifier_trains_alike(alpha, deform_conv):
    torch.manual_seed(0)
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10, alpha=alpha).double()
    official = OfficialStyle(model)
    x = images(2, 64, 96).double()
    losses = []
    for m in (model, official):
        logits = m(x)
        logits.square().mean().backward()
        losses.append(logits.detach())
    assert_equal(losses[1], losses[0])
    ours, theirs = ({k.removeprefix('backbone.'): p.grad for k, p in m.named_parameters()}
                    for m in (model, official))
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        assert_equal(theirs[name], grad)


def test_layer_scale_is_refused():
    with pytest.raises(ArgumentError, match='init_values=0'):
        OfficialStyle(LITv2(GOLDEN_ARCH, init_values=1e-6))
