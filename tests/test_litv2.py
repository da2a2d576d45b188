import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, Registry
from torch import nn

from mmlit import LITv2, LITv2Classifier, litv2_small, ops
from mmlit.errors import ArgumentError
from mmlit.models import HiLoAttention, litv2, merging
from mmlit.models.layers import DropPath
from mmlit.models.merging import DeformConv2d

from .conftest import DATA, GOLDEN_ARCH, needs_torch

ALL = (0, 1, 2, 3)
DIMS = GOLDEN_ARCH['embed_dims']


def build(seed: int = 0, **kwargs) -> LITv2:
    """A tiny LITv2 whose every weight matters: no zero offsets, no norm that is the identity."""
    torch.manual_seed(seed)
    model = LITv2(**{'arch': GOLDEN_ARCH, **kwargs})
    for name, t in model.state_dict().items():
        if t.is_floating_point():
            noise = torch.randn_like(t)
            t.add_(noise.abs() if 'running_var' in name else 0.1 * noise)
    return model


def images(batch: int, *size: int) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def loss_of(outs) -> torch.Tensor:
    return sum(out.square().mean() for out in outs)


def batch_norms(model) -> list:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


# Sizes of models and maps


@pytest.mark.parametrize('arch, params', [('small', 27_844_000), ('medium', 48_830_368),
                                          ('base', 86_520_704)])
def test_parameters(arch, params, monkeypatch):
    monkeypatch.setattr(LITv2, '_reset_parameters', lambda self: None)  # slow, and not needed
    assert sum(p.numel() for p in LITv2Classifier(arch).parameters()) == params


def test_parameters_of_a_dense_backbone():
    """Outputs add a norm each, and there is no head."""
    dense = LITv2(GOLDEN_ARCH, out_indices=ALL)
    classifier = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    dense, classifier = (sum(p.numel() for p in m.parameters()) for m in (dense, classifier))
    assert dense - classifier == 2 * sum(DIMS[:3]) - 10 * (DIMS[3] + 1)


@pytest.mark.parametrize('size', [(32, 32), (33, 70), (50, 75), (224, 320)])
def test_shapes(size):
    outs = build(out_indices=ALL).eval()(images(1, *size))
    h, w = math.ceil(size[0] / 4), math.ceil(size[1] / 4)
    assert isinstance(outs, tuple)
    for i, out in enumerate(outs):
        assert out.shape == (1, DIMS[i], h // 2**i, w // 2**i)
        assert out.is_contiguous()  # what mmcv's compiled ops take for granted
        assert out.isfinite().all()


@needs_torch((2, 11), 'not every op has a form without data')
@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.parametrize('kwargs', [dict(drop_path_rate=0.5, with_cp=True), dict(init_values=0.1)],
                         ids=str)
def test_tensors_without_data(kwargs, form):
    """On 'meta' shapes cost nothing; and nothing is made on another device than the images'."""
    model = build(out_indices=ALL, **kwargs).to('meta')
    with ops.use(form):
        outs = model(torch.empty(2, 3, 50, 75, device='meta'))
        loss_of(outs).backward()
    assert [o.shape[2:] for o in outs] == [o.shape[2:] for o in build(out_indices=ALL)(
        images(2, 50, 75))]
    assert {t.device.type for t in (*outs, *(p.grad for p in model.parameters()))} == {'meta'}


@pytest.mark.parametrize('kwargs, channels, size', [
    (dict(in_channels=5), 5, (32, 40)),
    (dict(stem_patch_size=2), 3, (16, 23)),
    (dict(qkv_bias=False), 3, (32, 40)),
    (dict(arch=dict(GOLDEN_ARCH, depths=[1, 0, 1, 2])), 3, (32, 40)),
    (dict(arch=dict(GOLDEN_ARCH, mlp_ratio=[8, 2, 1, 0.5])), 3, (32, 40)),
    (dict(arch=dict(GOLDEN_ARCH, embed_dims=[8, 24, 20, 40], num_heads=[1, 1, 5, 2])), 3, (32, 40)),
    (dict(attention_types='HiLo', window_size=3), 3, (32, 40)),
    (dict(attention_types=None, window_size=0), 3, (32, 40)),
    (dict(act_cfg=dict(type='LeakyReLU', negative_slope=0.2)), 3, (32, 40)),
    (dict(conv_norm_cfg=dict(type='SyncBN', momentum=0.2)), 3, (32, 40)),
], ids=str)
def test_other_models(kwargs, channels, size):
    model = build(out_indices=ALL, **kwargs).eval()
    x = torch.randn(2, channels, *size, requires_grad=True)
    outs = model(x)
    assert [out.shape[1] for out in outs] == model.embed_dims
    loss_of(outs).backward()
    assert x.grad.abs().sum() > 0
    if 'qkv_bias' in kwargs:
        assert model.stages[2].blocks[0].attn.l_kv.bias is None


def test_padding_is_zeros_at_the_right_and_bottom():
    model = build(out_indices=ALL).eval()
    x = images(1, 50, 75)
    for a, b in zip(model(x), model(F.pad(x, (0, 1, 0, 2))), strict=True):
        assert torch.equal(a, b)


# Outputs


@torch.no_grad()
def test_every_subset_of_outputs():
    full = build(out_indices=ALL).eval()
    x = images(1, 33, 50)
    expected = full(x)
    for n in (1, 2, 3, 4):
        for indices in itertools.combinations(ALL, n):
            model = LITv2(GOLDEN_ARCH, out_indices=indices).eval()
            missing, unexpected = model.load_state_dict(full.state_dict(), strict=False)
            assert not missing
            assert all(k.startswith('norm') for k in unexpected)
            outs = model(x)
            assert len(outs) == n
            for i, out in zip(indices, outs, strict=True):
                assert torch.equal(out, expected[i])


def test_next_stage_reads_the_map_before_the_norm():
    model = build(out_indices=ALL).eval()
    x = images(1, 50, 75)
    before = model(x)
    nn.init.constant_(model.norm1.weight, 100.)
    after = model(x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True,
                                                                               True]


@pytest.mark.parametrize('indices', [(), (1, 2, 3), (0, 3), ALL, None])
def test_norm_indices(indices):
    model = build(out_indices=ALL, norm_indices=indices).eval()
    raw = []
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, out: raw.append(out))
    normed = ALL if indices is None else indices
    for i, out in enumerate(model(images(1, 50, 75))):
        assert hasattr(model, f'norm{i}') == (i in normed)
        expected = getattr(model, f'norm{i}')(raw[i]) if i in normed else raw[i]
        assert torch.equal(out, expected) and out.is_contiguous()


def test_out_indices_as_int_and_in_any_order():
    x = images(1, 32, 64)
    assert [out.shape[1] for out in LITv2(GOLDEN_ARCH, out_indices=2)(x)] == [DIMS[2]]
    assert [out.shape[1] for out in LITv2(GOLDEN_ARCH, out_indices=[3, 0])(x)] == [DIMS[0], DIMS[3]]


def test_nothing_is_kept_between_calls():
    model = build(out_indices=ALL).eval()
    x = images(2, 50, 75)
    first = model(x)
    model(images(1, 64, 33))
    for a, b in zip(first, model(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('batch', [1, 2, 3, 5])
def test_samples_do_not_mix(batch):
    model = build(out_indices=ALL).double().eval()
    x = images(5, 33, 70).double()
    for together, alone in zip(model(x[:batch]), model(x[batch - 1:batch]), strict=True):
        assert len(together) == batch
        torch.testing.assert_close(together[-1:], alone)


# Attention


def naive_hilo(layer: HiLoAttention, x: torch.Tensor) -> torch.Tensor:
    """HiLo one head and one query at a time, for one map (H, W, C)."""
    H, W, C = x.shape
    s, d = layer.window_size, layer.head_dims
    padded = x.new_zeros(math.ceil(H / s) * s, math.ceil(W / s) * s, C)
    padded[:H, :W] = x

    def attend(q, k, v):
        return torch.softmax(k @ q * d**-0.5, dim=0) @ v

    hi = x.new_zeros(H, W, layer.h_heads * d)
    lo = x.new_zeros(H, W, layer.l_heads * d)
    for i, j in itertools.product(range(H), range(W)):
        window = padded[i // s * s:i // s * s + s, j // s * s:j // s * s + s].reshape(-1, C)
        for h in range(layer.h_heads):
            q = layer.h_qkv(x[i, j]).chunk(3)[0][h * d:h * d + d]
            k, v = (t[:, h * d:h * d + d] for t in layer.h_qkv(window).chunk(3, dim=1)[1:])
            hi[i, j, h * d:h * d + d] = attend(q, k, v)
        pooled = torch.stack([
            padded[a:a + s, b:b + s].mean(dim=(0, 1)) for a in range(0, padded.shape[0], s)
            for b in range(0, padded.shape[1], s)])
        for h in range(layer.l_heads):
            q = layer.l_q(x[i, j])[h * d:h * d + d]
            k, v = (t[:, h * d:h * d + d] for t in layer.l_kv(pooled).chunk(2, dim=1))
            lo[i, j, h * d:h * d + d] = attend(q, k, v)
    outs = [layer.h_proj(hi)] if layer.h_heads else []
    outs += [layer.l_proj(lo)] if layer.l_heads else []
    return torch.cat(outs, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize('alpha, lofi', [(0, 0), (0.5, 1), (0.9, 2), (1, 3)])
@pytest.mark.parametrize('window', [1, 2, 3, 4, 5])
def test_hilo_by_its_definition(window, alpha, lofi):
    torch.manual_seed(0)
    layer = HiLoAttention(12, 3, window, alpha).double()
    assert layer.l_heads == (3 if window == 1 else lofi)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    for size in [(5, 6), (1, 3)]:
        x = torch.randn(2, *size, 12).double()
        expected = torch.stack([naive_hilo(layer, sample) for sample in x])
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize('window', [1, 2, 3, 4, 5])
def test_windows(window):
    model = build(window_size=[0, 0, window, 1], out_indices=ALL)
    assert model.stages[2].blocks[0].attn.window_size == window
    outs = model(images(2, 90, 100))
    assert outs[2].shape == (2, DIMS[2], 5, 6)
    loss_of(outs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_int_window_is_for_hilo_stages_only():
    model = LITv2(GOLDEN_ARCH, window_size=3)
    attns = [stage.blocks[0].attn for stage in model.stages]
    assert attns[:2] == [None, None]
    assert [attn.window_size for attn in attns[2:]] == [3, 3]


def test_mhsa_is_hilo_with_window_1():
    hilo = build(window_size=[0, 0, 1, 1], alpha=0.3).eval()
    mhsa = LITv2(GOLDEN_ARCH, attention_types=[None, None, 'MHSA', 'MHSA'],
                 window_size=[0, 0, 1, 0]).eval()
    mhsa.load_state_dict(hilo.state_dict())
    x = images(1, 64, 96)
    assert torch.equal(hilo(x)[0], mhsa(x)[0])
    every = LITv2(GOLDEN_ARCH, attention_types='MHSA', window_size=0)
    assert all(stage.blocks[0].attn.window_size == 1 for stage in every.stages)


@pytest.mark.parametrize('alpha, absent, present', [(0, 'l_', 'h_'), (1, 'h_', 'l_')])
def test_heads_of_one_kind_only(alpha, absent, present):
    model = build(alpha=alpha, window_size=[0, 0, 2, 2])
    names = [name for name, _ in model.named_parameters()]
    assert not any(f'.attn.{absent}' in name for name in names)
    assert any(f'.attn.{present}' in name for name in names)
    assert model(images(1, 50, 75))[0].isfinite().all()


# Training


@pytest.mark.parametrize('kwargs', [dict(), dict(frozen_stages=2), dict(norm_eval=True)], ids=str)
def test_train_and_eval_return_self(kwargs):
    model = LITv2(GOLDEN_ARCH, **kwargs)
    assert model.train() is model
    assert model.training
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    assert model.train(False) is model


def test_every_weight_is_used():
    model = build(out_indices=ALL, init_values=0.1)
    x = images(2, 50, 75).requires_grad_()
    loss_of(model(x)).backward()
    for name, p in model.named_parameters():
        if name.endswith('dconv.bias'):  # the batch norm that follows takes it out again
            assert p.grad is not None
        else:
            assert p.grad.abs().sum() > 0, name
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize('out_indices', [ALL, (1, 3)])
def test_frozen_stages(frozen_stages, out_indices):
    model = build(out_indices=out_indices, frozen_stages=frozen_stages, drop_rate=0.1,
                  drop_path_rate=0.1)
    model.eval()
    model.train()
    frozen = ('patch_embed.', 'drop_after_pos.') if frozen_stages >= 0 else ()
    for i in range(frozen_stages):
        frozen += (f'stages.{i}.', f'norm{i}.')

    for name, module in model.named_modules():
        if name:
            assert module.training != f'{name}.'.startswith(frozen), name
    for name, p in model.named_parameters():
        assert p.requires_grad != name.startswith(frozen), name

    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    loss = loss_of(model(images(2, 33, 64)))
    if trainable:
        loss.backward()
        torch.optim.SGD(trainable, lr=0.1, weight_decay=0.1).step()
    else:
        assert frozen_stages == 4 and not loss.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name


def test_frozen_stages_stay_frozen_after_loading_and_initialisation():
    model = LITv2(GOLDEN_ARCH, frozen_stages=2)
    model.init_weights()
    model.load_state_dict(build(seed=1).state_dict())
    assert not model.stages[1].downsample.norm.training
    assert not any(p.requires_grad for p in model.stages[1].parameters())
    assert all(p.requires_grad for p in model.stages[2].parameters())


def test_norm_eval():
    model = build(norm_eval=True, frozen_stages=0).train()
    assert not any(m.training for m in batch_norms(model))
    assert len(batch_norms(model)) == 3
    assert model.stages[0].training and model.norm3.training
    before = [m.running_mean.clone() for m in batch_norms(model)]
    loss_of(model(images(2, 64, 96))).backward()
    assert all(torch.equal(m.running_mean, b)
               for m, b in zip(batch_norms(model), before, strict=True))
    assert all(m.weight.grad is not None for m in batch_norms(model))

    model = build(norm_eval=False).train()
    assert all(m.training for m in batch_norms(model))


@pytest.mark.parametrize('kwargs, blocks', [
    (dict(), 5),
    (dict(frozen_stages=1), 4),
    (dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2, init_values=0.1), 5),
], ids=str)
def test_checkpointing_changes_no_gradient(kwargs, blocks, monkeypatch):
    calls = []

    def spy(function, *args, **kw):
        calls.append(function)
        return original(function, *args, **kw)

    original = litv2.checkpoint
    monkeypatch.setattr(litv2, 'checkpoint', spy)
    x = images(2, 33, 64).double()
    grads = []
    for with_cp in (False, True):
        model = build(out_indices=ALL, with_cp=with_cp, **kwargs).double().train()
        torch.manual_seed(0)
        loss_of(model(x)).backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
        assert len(calls) == (blocks if with_cp else 0)
    for name, grad in grads[0].items():
        assert (grad is None) == (grads[1][name] is None)
        if grad is not None:
            torch.testing.assert_close(grads[1][name], grad)

    calls.clear()
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    assert not calls


@pytest.mark.parametrize('rate', ['drop_rate', 'attn_drop_rate', 'drop_path_rate'])
def test_dropout(rate):
    x = images(8, 32, 64)
    plain, model = build(out_indices=ALL), build(out_indices=ALL, **{rate: 0.8})

    def train_twice(m):
        outs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            outs.append(m.train()(x))
        return [torch.equal(a, b) for a, b in zip(*outs, strict=True)]

    # Attention begins in stage 3; stochastic depth is 0 in the first block.
    first = dict(drop_rate=0, attn_drop_rate=2, drop_path_rate=1)[rate]
    assert train_twice(plain) == [True] * 4
    assert train_twice(model) == [i < first for i in range(4)]
    for m in (plain, model):
        for bn in batch_norms(m):
            bn.reset_running_stats()
    for a, b in zip(plain.eval()(x), model.eval()(x), strict=True):
        assert torch.equal(a, b)


def test_drop_rate_is_everywhere(monkeypatch):
    """After the patch embedding, each attention projection and both linears of each FFN."""
    calls = []
    original = F.dropout

    def spy(x, p, training=True, inplace=False):
        calls.append((p, training))
        return original(x, p, training, inplace)

    monkeypatch.setattr(F, 'dropout', spy)
    build(drop_rate=0.25).train()(images(1, 64, 64))
    ffn, stage3, stage4 = 2 * 5, 2 * 2, 1  # stage 3 has Hi-Fi and Lo-Fi heads in 2 blocks
    assert calls == [(0.25, True)] * (1 + ffn + stage3 + stage4)


def test_stochastic_depth():
    model = LITv2(GOLDEN_ARCH, drop_path_rate=0.4)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])

    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 3, 2))
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, kept.view(-1, 1, 1).expand_as(out) / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_layer_scale():
    assert not any('gamma' in name for name, _ in LITv2(GOLDEN_ARCH).named_parameters())
    model = LITv2(GOLDEN_ARCH, init_values=1e-3)
    gammas = {k: p for k, p in model.named_parameters() if 'gamma' in k}
    assert set(gammas) == {
        'stages.0.blocks.0.gamma2', 'stages.1.blocks.0.gamma2', 'stages.2.blocks.0.gamma1',
        'stages.2.blocks.0.gamma2', 'stages.2.blocks.1.gamma1', 'stages.2.blocks.1.gamma2',
        'stages.3.blocks.0.gamma1', 'stages.3.blocks.0.gamma2'}
    for name, gamma in gammas.items():
        assert gamma.shape == (DIMS[int(name.split('.')[1])], )
        assert (gamma == 1e-3).all()

    block = build(init_values=1e-3).stages[2].blocks[0]
    x = torch.randn(1, 4, 5, DIMS[2])
    nn.init.zeros_(block.gamma1)
    nn.init.zeros_(block.gamma2)
    assert torch.equal(block(x), x)
    nn.init.constant_(block.gamma2, 2.)
    torch.testing.assert_close(block(x), x + 2 * block.ffn(block.norm2(x)))


# Initialisation


def assert_initialised(model):
    for name, m in model.named_modules():
        if isinstance(m, nn.Linear):
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert not m.bias.any()
        elif isinstance(m, DeformConv2d):
            assert not m.conv_offset.weight.any() and not m.conv_offset.bias.any()
            std = math.sqrt(2 / (m.weight.shape[0] * 2 * 2))
            assert m.weight.std().item() == pytest.approx(std, rel=0.1), name
            assert not m.bias.any()
        elif isinstance(m, nn.Conv2d) and not name.endswith('conv_offset'):
            fan_out = 9 if name.endswith('dwconv') else DIMS[0] * 4 * 4
            assert m.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.15), name
            assert not m.bias.any()
        elif isinstance(m, (nn.LayerNorm, nn.BatchNorm2d)):
            assert (m.weight == 1).all() and not m.bias.any()
            if isinstance(m, nn.BatchNorm2d):
                assert not m.running_mean.any() and (m.running_var == 1).all()
    assert all((p == 0.1).all() for name, p in model.named_parameters() if 'gamma' in name)


def test_initialisation():
    torch.manual_seed(0)
    assert_initialised(LITv2(GOLDEN_ARCH, out_indices=ALL, init_values=0.1))
    model = build(out_indices=ALL, init_values=0.1)
    model.init_weights()
    assert_initialised(model)
    head = LITv2Classifier(GOLDEN_ARCH, num_classes=10).head
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not head.bias.any()


@pytest.mark.parametrize('as_list', [False, True])
def test_init_cfg_of_mmengine(as_list):
    cfg = dict(type='Constant', layer='Linear', val=0.5, bias=0.25)
    model = LITv2(GOLDEN_ARCH, init_cfg=[cfg] if as_list else cfg)
    model.init_weights()
    fc1 = model.stages[0].blocks[0].ffn.fc1
    assert (fc1.weight == 0.5).all() and (fc1.bias == 0.25).all()
    assert model.stages[0].blocks[0].ffn.dwconv.weight.std().item() == pytest.approx(
        math.sqrt(2 / 9), rel=0.15)


# Precision


@pytest.fixture
def merges(monkeypatch):
    """Inputs and offsets of each token merging that runs."""
    calls = []

    def spy(x, offset, *args, **kwargs):
        calls.append((x, offset))
        return original(x, offset, *args, **kwargs)

    original = merging.deform_conv2d
    monkeypatch.setattr(merging, 'deform_conv2d', spy)
    return calls


def build_for_rounding() -> LITv2:
    """Weights as initialised, which keep rounding errors small, but offsets of about a pixel."""
    torch.manual_seed(0)
    model = LITv2(GOLDEN_ARCH, out_indices=ALL).eval()
    for stage in model.stages[:3]:
        nn.init.normal_(stage.downsample.dconv.conv_offset.weight, std=0.1)
    return model


def assert_positions(model, merges, dtype):
    """Offsets are what the convolution gives in ``dtype``, not values rounded in between."""
    assert len(merges) == 3
    for stage, (x, offset) in zip(model.stages, merges, strict=False):
        conv = stage.downsample.dconv.conv_offset
        assert offset.dtype == dtype
        expected = F.conv2d(x.permute(0, 3, 1, 2).to(dtype), conv.weight.to(dtype),
                            conv.bias.to(dtype), stride=2)
        torch.testing.assert_close(offset, expected.permute(0, 2, 3, 1))


def assert_similar(outs, expected, tolerance):
    for a, b in zip(outs, expected, strict=True):
        assert (a.to(b.dtype) - b).norm() < tolerance * b.norm()


@torch.no_grad()
def test_bfloat16_autocast(merges):
    model = build_for_rounding()
    x = images(2, 50, 75)
    expected = model(x)
    merges.clear()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outs = model(x)
    assert_positions(model, merges, torch.float32)
    assert_similar(outs, expected, 0.02)


def test_training_with_autocast():
    model = build(out_indices=ALL).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_of(model(images(2, 50, 75)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize('dtype, positions, tolerance', [
    (torch.float64, torch.float64, 1e-5),
    (torch.bfloat16, torch.float32, 0.02),
])
def test_model_dtypes(dtype, positions, tolerance, merges):
    model = build_for_rounding()
    x = images(2, 50, 75)
    expected = model(x)
    merges.clear()
    model.to(dtype)
    outs = model(x.to(dtype))
    assert all(out.dtype == dtype for out in outs)
    assert_positions(model, merges, positions)
    assert_similar(outs, expected, tolerance)


# Arguments that have no meaning


def arch(**changes):
    return dict(arch={**GOLDEN_ARCH, **changes})


@pytest.mark.parametrize('kwargs, message', [
    (arch(num_heads=[1, 2, 3, 8]), 'num_heads=3 does not divide embed_dims=64'),
    (arch(num_heads=[1, 2, 0, 8]), 'num_heads=0 does not divide embed_dims=64'),
    (dict(arch='huge'), "arch='huge': expected one of .*'small'.* or a dict"),
    (dict(arch=None), 'arch=None: a custom arch is a dict with the keys'),
    (dict(arch=dict(embed_dims=DIMS)), 'a custom arch is a dict with the keys'),
    (arch(feedforward=[4, 4, 4, 4]), 'a custom arch is a dict with the keys.*no others'),
    (arch(depths=[1, 1, 2]), 'every list needs 4 entries'),
    (arch(mlp_ratio=[4] * 5), 'every list needs 4 entries'),
    (dict(alpha=-0.1), r'alpha=-0.1: .*lies in \[0, 1\]'),
    (dict(alpha=1.1), r'alpha=1.1: .*lies in \[0, 1\]'),
    (dict(alpha=math.nan), 'alpha=nan'),
    (dict(alpha=2, attention_types=None, window_size=0), 'alpha=2'),
    (dict(window_size=[0, 0, 0, 1]), r'window_size\[2\]=0: HiLo needs an integer >= 1'),
    (dict(window_size=[0, 0, -1, 1]), r'window_size\[2\]=-1'),
    (dict(window_size=[0, 0, 2.5, 1]), r'window_size\[2\]=2.5'),
    (dict(window_size=[0, 0, None, 1]), r'window_size\[2\]=None'),
    (dict(window_size=0), r'window_size\[2\]=0'),
    (dict(window_size=[0, 2, 2, 1]), r'window_size\[1\]=2, but stage 1 has attention None'),
    (dict(attention_types=[None, None, 'MHSA', 'MHSA'], window_size=[0, 0, 2, 1]),
     r"window_size\[2\]=2, but stage 2 has attention 'MHSA'"),
    (dict(window_size=[2, 1]), 'window_size=.*expected 4 entries'),
    (dict(attention_types=['HiLo']), 'attention_types=.*expected 4 entries'),
    (dict(attention_types=[None, None, 'Swin', 'HiLo']), r"attention_types\[2\]='Swin'"),
    (dict(out_indices=(4, )), r'out_indices=\(4,\): expected different stages'),
    (dict(out_indices=4), 'out_indices='),
    (dict(out_indices=-1), 'out_indices='),
    (dict(out_indices=(0, 0)), 'out_indices='),
    (dict(out_indices=()), 'out_indices is empty'),
    (dict(out_indices=(1, 3), norm_indices=(0, 1)), r'norm_indices=\(0, 1\).*out of \[1, 3\]'),
    (dict(drop_rate=1.), 'drop_rate=1.0'),
    (dict(drop_rate=-0.1), 'drop_rate=-0.1'),
    (dict(attn_drop_rate=1.5), 'attn_drop_rate=1.5'),
    (dict(attn_drop_rate=-1), 'attn_drop_rate=-1'),
    (dict(drop_path_rate=1), 'drop_path_rate=1'),
    (dict(drop_path_rate=-0.2), 'drop_path_rate=-0.2'),
    (dict(init_values=-1e-6), 'init_values=-1e-06'),
    (dict(frozen_stages=-2), 'frozen_stages=-2: expected -1 to 4'),
    (dict(frozen_stages=5), 'frozen_stages=5'),
    (dict(norm_cfg=dict(type='BN')), "norm_cfg=.*one of .'LN'"),
    (dict(norm_cfg=dict(eps=1e-6)), 'norm_cfg='),
    (dict(norm_cfg=None), 'norm_cfg=None'),
    (dict(conv_norm_cfg=dict(type='LN')), 'conv_norm_cfg=.*BN'),
    (dict(conv_norm_cfg='BN'), "conv_norm_cfg='BN'"),
    (dict(act_cfg=dict(type='Tanhish')), 'act_cfg=.*GELU'),
], ids=lambda v: v if isinstance(v, str) else '')
def test_bad_arguments(kwargs, message):
    with pytest.raises(ArgumentError, match=message) as raised:
        LITv2(**{'arch': GOLDEN_ARCH, **kwargs})
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize('kwargs', [dict(windows=2), dict(with_checkpoint=True)])
def test_unknown_arguments(kwargs):
    for cls in (LITv2, LITv2Classifier):
        with pytest.raises(TypeError, match=next(iter(kwargs))):
            cls(GOLDEN_ARCH, **kwargs)


@pytest.mark.parametrize('shape, message', [
    ((3, 64, 64), r'expected images.*\(B, C, H, W\), got shape \(3, 64, 64\)'),
    ((1, 1, 3, 64, 64), r'got shape \(1, 1, 3, 64, 64\)'),
    ((1, 4, 64, 64), 'images have 4 channels, but LITv2 was built with in_channels=3'),
    ((1, 3, 31, 64), 'images of 31x64 pixels are too small: each side must be at least 32'),
    ((1, 3, 64, 31), 'images of 64x31 pixels are too small'),
])
def test_bad_images(shape, message):
    with pytest.raises(ArgumentError, match=message):
        LITv2(GOLDEN_ARCH)(torch.zeros(shape))


@pytest.mark.parametrize('kwargs, message', [
    (dict(num_heads=5), 'num_heads=5 does not divide embed_dims=32'),
    (dict(num_heads=4, window_size=0), 'window_size=0'),
    (dict(num_heads=4, window_size=2.0), 'window_size=2.0'),
    (dict(num_heads=4, alpha=1.5), 'alpha=1.5'),
])
def test_bad_arguments_of_a_layer(kwargs, message):
    with pytest.raises(ArgumentError, match=message):
        HiLoAttention(32, **kwargs)


# Use in toolkits


def test_registration():
    # As mmdet's and mmseg's: a child of the root with a scope of its own.
    child = Registry('model', parent=MODELS, scope='test_registration', locations=['mmlit'])
    for registry, name in itertools.product((MODELS, child), ('LITv2', 'mmlit.LITv2')):
        model = registry.build(dict(type=name, arch=GOLDEN_ARCH, out_indices=(1, 3)))
        assert type(model) is LITv2
        assert model.out_indices == (1, 3)


def test_import_needs_no_toolkit():
    code = ('import sys, mmlit; '
            "toolkits = {'mmcv', 'mmdet', 'mmseg', 'openmixup', 'torchvision'}; "
            'print(sorted(toolkits & {name.split(".")[0] for name in sys.modules}))')
    run = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[1],
                         capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, '[]'), run.stderr


def test_classifier():
    model = litv2_small(num_classes=10).eval()
    x = images(2, 64, 96)
    with torch.no_grad():
        logits = model(x)
        features = model.backbone(x)[-1]
    assert logits.shape == (2, 10)
    torch.testing.assert_close(logits, model.head(features.mean(dim=(2, 3))))
    with pytest.raises(ArgumentError, match='num_classes=0'):
        LITv2Classifier(GOLDEN_ARCH, num_classes=0)
    with pytest.raises(ArgumentError, match='a classifier reads the last stage'):
        LITv2Classifier(GOLDEN_ARCH, out_indices=ALL)


def test_names_of_variants():
    for short, name in zip('tsmb', ('tiny', 'small', 'medium', 'base'), strict=True):
        assert LITv2.arch_zoo[short] == LITv2.arch_zoo[name]
    assert LITv2.arch_zoo['tiny'] == dict(
        embed_dims=[64, 128, 320, 512], depths=[3, 4, 6, 3], num_heads=[1, 2, 5, 8],
        mlp_ratio=[8, 8, 4, 4])


@pytest.mark.parametrize('init_cfg', [
    dict(type='Pretrained', checkpoint=str(DATA / 'official_det.pth')),
    [dict(type='Pretrained', checkpoint=str(DATA / 'official_det.pth'), prefix='backbone.')],
])
def test_pretrained(init_cfg):
    backbone = LITv2(GOLDEN_ARCH, out_indices=(0, 1, 2, 3), norm_indices=(1, 2, 3),
                     init_cfg=init_cfg)
    backbone.init_weights()
    state = torch.load(DATA / 'official_det.pth', weights_only=True)['state_dict']
    (norm3, ) = [v for k, v in state.items() if k.endswith('norm3.weight') and 'layers' not in k]
    assert torch.equal(backbone.norm3.weight, norm3)


@pytest.mark.parametrize('init_cfg', [
    dict(type='Pretrained', checkpoint='x.pth', layer='Linear'),
    [dict(type='Pretrained', checkpoint='x.pth'), dict(type='Normal', layer='Linear')],
])
def test_pretrained_stands_alone(init_cfg):
    with pytest.raises(ArgumentError, match='Pretrained fills every weight'):
        LITv2(GOLDEN_ARCH, init_cfg=init_cfg).init_weights()
