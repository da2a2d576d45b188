"""Layers whose call someone has changed or watches are called, in every form, or not fused."""
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from mmlit import LITv2, ops
from mmlit.errors import ArgumentError
from mmlit.models.ffn import ConvFFN
from mmlit.models.merging import DeformConv2d
from mmlit.ops import ffn as ffn_module

from .test_litv2 import ALL, build, images

SMALL = dict(embed_dims=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
             mlp_ratio=[2, 2, 2, 2])
KINDS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d, nn.GELU)


def small(**kwargs) -> LITv2:
    return build(arch=SMALL, out_indices=ALL, alpha=0.5, **kwargs)


def leaves(model) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, KINDS)]


def other(out):
    """Nothing that a norm after it would take back."""
    return out + out.square()


class Wrapper(nn.Module):
    """As adapters stand in a layer's place, without the layer's own attributes."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return other(self.layer(x))


class Shifted(nn.Module):
    def forward(self, weight):
        return other(weight)


class Coded(torch.Tensor):
    """A weight that does its own products, as quantised ones do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if getattr(func, '__name__', '') in ('linear', 'conv2d', 'layer_norm', 'batch_norm'):
            return other(out.as_subclass(torch.Tensor))
        return out


def replace_forward(model, name, patch):
    layer = model.get_submodule(name)
    before = layer.forward
    layer.forward = lambda x: other(before(x))


def replace_forward_of_class(model, name, patch):
    layer = model.get_submodule(name)
    before = type(layer).forward
    patch.setattr(type(layer), 'forward',
                  lambda self, x: other(before(self, x)) if self is layer else before(self, x))


def subclass(model, name, patch):
    layer = model.get_submodule(name)
    kind = type(layer)
    layer.__class__ = type('Other', (kind, ), {'forward': lambda s, x: other(kind.forward(s, x))})


def hook(model, name, patch):
    model.get_submodule(name).register_forward_hook(lambda m, args, out: other(out))


def hook_with_keywords(model, name, patch):
    model.get_submodule(name).register_forward_hook(lambda m, args, kwargs, out: other(out),
                                                    with_kwargs=True, always_call=True)


def hook_before(model, name, patch):
    model.get_submodule(name).register_forward_pre_hook(lambda m, args: (other(args[0]), ))


def hook_of_all(model, name, patch):
    layer = model.get_submodule(name)
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, args, out: other(out) if m is layer else None)
    patch.handles.append(handle)


def wrapper(model, name, patch):
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, Wrapper(model.get_submodule(name)))


def parametrization(model, name, patch):
    parametrize.register_parametrization(model.get_submodule(name), 'weight', Shifted())


def weight_of_another_class(model, name, patch):
    layer = model.get_submodule(name)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Coded))


CHANGES = [replace_forward, replace_forward_of_class, subclass, hook, hook_with_keywords,
           hook_before, hook_of_all, wrapper, parametrization, weight_of_another_class]


@pytest.fixture
def patch(monkeypatch):
    monkeypatch.handles = []
    yield monkeypatch
    for handle in monkeypatch.handles:
        handle.remove()


@pytest.mark.parametrize('mode', ['train', 'eval without gradients'])
@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_every_layer(change, form, mode, patch):
    patch.setattr(ffn_module, 'TILE_BYTES', 256)  # tiles in training, too
    original = small().train(mode == 'train')
    x = images(2, 68, 72)  # more than one pooled token in stage 3, and windows with padding
    with ops.use(form), torch.set_grad_enabled('without' not in mode):
        before = copy.deepcopy(original)(x)
        for name in leaves(original):
            if 'weight' not in dict(original.get_submodule(name).named_parameters()) and (
                    change in (parametrization, weight_of_another_class)):
                continue  # an activation
            model = copy.deepcopy(original)
            with patch.context() as inner:
                inner.handles = patch.handles
                change(model, name, inner)
                after = model(x)
            while patch.handles:
                patch.handles.pop().remove()
            assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), name


@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize('size', [(64, 64), (80, 80)])  # the latter pads windows
@pytest.mark.parametrize('form', ['fast', 'reference'])
@torch.no_grad()
def test_every_layer_of_a_fused_model(form, size, change, patch):
    original = small(init_values=0.1).eval().fuse()
    x = images(1, *size)
    with ops.use(form):
        before = copy.deepcopy(original)(x)
        for name in leaves(original):
            if change in (parametrization, weight_of_another_class) and not hasattr(
                    original.get_submodule(name), 'weight'):
                continue
            model = copy.deepcopy(original)
            with patch.context() as inner:
                inner.handles = patch.handles
                change(model, name, inner)
                after = model(x)
            while patch.handles:
                patch.handles.pop().remove()
            assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), name


@torch.no_grad()
@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_folded_layers_must_be_plain(change, patch):
    """Others keep their change."""
    original = small(init_values=0.1).eval()
    x = images(1, 64, 80)
    for_all = change in (replace_forward_of_class, hook_of_all)
    folded = {'fc2', 'h_proj', 'l_proj', 'h_qkv', 'l_q'}
    refused = set()
    for name in leaves(original):
        if change in (parametrization, weight_of_another_class) and not hasattr(
                original.get_submodule(name), 'weight'):
            continue
        if change is parametrization and isinstance(original.get_submodule(name), nn.BatchNorm2d):
            continue  # its weight is what the parametrisation gives
        model = copy.deepcopy(original)
        with patch.context() as inner:
            inner.handles = patch.handles
            change(model, name, inner)
            before = model(x)
            try:
                model.fuse()
            except ArgumentError as e:
                assert (for_all or name in str(e)) and not model.is_fused
                refused.add(name)
            for a, b in zip(model(x), before, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        while patch.handles:
            patch.handles.pop().remove()
    assert {n.rpartition('.')[2] for n in refused} >= folded
    if not for_all:
        assert not any(n.endswith(('fc1', 'conv_offset', 'norm2', 'embed.proj')) for n in refused)


@torch.no_grad()
def test_changed_networks_and_convolutions_are_not_fused():
    for name in ('stages.0.blocks.0.ffn', 'stages.2.blocks.0.attn', 'stages.0.downsample.dconv'):
        model = small(init_values=0.1).eval()
        model.get_submodule(name).register_forward_hook(lambda m, args, out: other(out))
        with pytest.raises(ArgumentError, match=name):
            model.fuse()
        assert not model.is_fused


@torch.no_grad()
@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.parametrize('dtype, autocast', [(torch.float32, False), (torch.float32, True),
                                             (torch.bfloat16, False), (torch.float64, False)])
def test_offsets_are_called_and_stay_wide(dtype, autocast, form):
    x = torch.randn(1, 6, 6, 8).to(dtype)
    layer = DeformConv2d(8, 4, 2, stride=2)
    nn.init.normal_(layer.conv_offset.weight)
    layer.to(dtype)
    seen = []
    layer.conv_offset.register_forward_hook(lambda m, args, out: seen.append(out))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    conv = layer.conv_offset
    expected = torch.conv2d(x.permute(0, 3, 1, 2).to(wide), conv.weight.to(wide),
                            conv.bias.to(wide), stride=2)
    with ops.use(form), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = layer(x)
    assert out.dtype == (torch.bfloat16 if autocast else dtype) and len(seen) == 1
    assert seen[0].dtype == wide and torch.equal(seen[0], expected)
    assert {p.dtype for p in layer.parameters()} == {dtype}


def test_offsets_of_a_half_precision_model_train():
    layer = DeformConv2d(8, 4, 2, stride=2).bfloat16()
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    layer.conv_offset.register_forward_hook(lambda m, args, out: None)
    layer(torch.randn(1, 6, 6, 8).bfloat16()).float().square().sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.any() for p in layer.parameters())


# Weights by name, whatever their order and number


def pruned(layer):
    prune.remove(prune.l1_unstructured(layer, 'weight', amount=0.3), 'weight')


def parametrised_once(layer):
    parametrize.register_parametrization(layer, 'weight', Shifted())
    parametrize.remove_parametrizations(layer, 'weight')


def of_spectral_norm(layer):
    parametrizations.spectral_norm(layer)
    parametrize.remove_parametrizations(layer, 'weight')


def of_weight_norm(layer):
    nn.utils.remove_weight_norm(nn.utils.weight_norm(layer))


def reassigned(layer):
    weight = layer.weight
    del layer.weight
    layer.weight = nn.Parameter(2 * weight.detach())


def without_bias(layer):
    layer.bias = None


def with_a_tensor_for_a_bias(layer):
    bias = layer.bias.detach()
    del layer.bias
    layer.bias = 3 * bias


@pytest.mark.filterwarnings('ignore:.*weight_norm')
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('change', [
    pruned, parametrised_once, of_spectral_norm, of_weight_norm, reassigned, without_bias,
    with_a_tensor_for_a_bias], ids=lambda f: f.__name__)
def test_weights_go_by_name(change, grad, monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', 1000)
    for name in ('fc1', 'dwconv', 'fc2'):
        torch.manual_seed(0)
        layer, x = ConvFFN(6, 6, dict(type='GELU')), torch.randn(2, 5, 5, 6)
        change(getattr(layer, name))
        outs = []
        for form in ('fast', 'reference'):
            with ops.use(form), torch.set_grad_enabled(grad):
                outs.append(layer(x))
        torch.testing.assert_close(*outs)
