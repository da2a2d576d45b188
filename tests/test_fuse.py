"""Fused models give what they gave before."""
import copy

import pytest
import torch

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.errors import ArgumentError

from .conftest import DATA, GOLDEN_ARCH
from .test_litv2 import ALL, build, images

SETTINGS = [
    dict(),
    dict(window_size=[0, 0, 3, 1]),
    dict(window_size=[0, 0, 2, 2], alpha=0.5),
    dict(alpha=0.),
    dict(alpha=1., init_values=0.1),
    dict(init_values=0.1, qkv_bias=False),
    dict(conv_norm_cfg=dict(type='SyncBN')),
    dict(conv_norm_cfg=dict(type='BN', affine=False)),
]


@torch.no_grad()
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize('kwargs', SETTINGS, ids=str)
def test_outputs(kwargs, dtype, tolerance):
    torch.manual_seed(0)
    model = LITv2(GOLDEN_ARCH, out_indices=ALL, **kwargs) if dtype == torch.float32 else build(
        out_indices=ALL, **kwargs)
    model = model.to(dtype).eval()
    fused = copy.deepcopy(model)
    assert fused.fuse() is fused
    for size in [(64, 64), (50, 75)]:
        x = images(2, *size).to(dtype)
        for a, b in zip(fused(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_golden(golden):
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10, init_values=1e-6)
    load_checkpoint(model, DATA / 'openmixup_lit.pth')
    model.double().eval().fuse()
    data = golden('openmixup_lit')
    torch.testing.assert_close(model(data['x'].double()), data['logits'], rtol=1e-9, atol=1e-9)


def test_what_is_left():
    model = build(init_values=0.1).eval().fuse()
    names = {name.rpartition('.')[0].rpartition('.')[2] or name for name in model.state_dict()}
    assert 'inputs' in names and not names & {'h_qkv', 'l_q', 'running_mean'}
    assert not any('gamma' in n or 'downsample.norm' in n for n in model.state_dict())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())


@torch.no_grad()
def test_fusing_again_changes_nothing():
    model = build(init_values=0.1).eval().fuse()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.switch_to_deploy()
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@torch.no_grad()
def test_state_dict_fits_a_model_fused_alike():
    model = build(init_values=0.1).eval().fuse()
    twin = LITv2(GOLDEN_ARCH, init_values=0.1).eval().fuse()
    twin.load_state_dict(model.state_dict())
    x = images(1, 50, 75)
    assert torch.equal(model(x)[0], twin(x)[0])
    with pytest.raises(RuntimeError, match='Missing key'):
        LITv2(GOLDEN_ARCH, init_values=0.1).load_state_dict(model.state_dict())


def test_training_is_refused():
    model = build()
    with pytest.raises(ArgumentError, match=r'call eval\(\) first'):
        model.train().fuse()
    model.eval().fuse()
    with pytest.raises(ArgumentError, match='for inference'):
        model.train()
    assert model.eval() is model


def test_batch_statistics_are_refused():
    model = build(conv_norm_cfg=dict(type='BN', track_running_stats=False)).eval()
    with pytest.raises(ArgumentError, match='running statistics'):
        model.fuse()
