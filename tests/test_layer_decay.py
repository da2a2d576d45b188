"""Layer-wise learning rates, as mmengine's Runner builds them."""
import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlit import LITv2, LITv2Classifier
from mmlit.errors import ArgumentError

from .conftest import GOLDEN_ARCH  # depths 1, 1, 2, 1: 7 layers

DEPTHS = {
    'patch_embed.proj.weight': 0, 'patch_embed.norm.bias': 0,
    'stages.0.blocks.0.ffn.fc1.weight': 1, 'stages.0.downsample.dconv.conv_offset.bias': 1,
    'stages.1.blocks.0.norm2.weight': 2, 'stages.1.downsample.norm.weight': 2,
    'stages.2.blocks.0.attn.l_q.weight': 3, 'stages.2.blocks.1.ffn.dwconv.bias': 4,
    'stages.2.downsample.dconv.weight': 4, 'stages.3.blocks.0.attn.l_kv.weight': 5,
    'norm3.weight': 6,
}


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'student.backbone.'])
def test_depth_of_each_parameter(prefix):
    model = LITv2(GOLDEN_ARCH)
    names = dict(model.named_parameters())
    for name, depth in DEPTHS.items():
        assert name in names
        assert model.get_layer_depth(prefix + name, prefix) == (depth, 7)
    assert {model.get_layer_depth(prefix + name, prefix)[0] for name in names} == set(range(7))
    assert model.get_layer_depth('head.weight', 'backbone.') == (6, 7)
    # Names that only begin alike are not of this backbone.
    assert model.get_layer_depth('neck.stages.0.weight', 'backbone.') == (6, 7)


def groups_of(model: nn.Module, **paramwise) -> dict[str, dict]:
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=paramwise))
    by_id = {id(g['params'][0]): g for g in wrapper.optimizer.param_groups}
    return {name: by_id[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def check(model: nn.Module, prefix: str = 'backbone.') -> None:
    """Rates of each layer, and the default constructor's settings beside them."""
    groups = groups_of(model, layer_decay_rate=0.5, norm_decay_mult=0., bias_decay_mult=0.,
                       custom_keys={'conv_offset': dict(lr_mult=0.1)})
    for name, depth in DEPTHS.items():
        if prefix + name in groups:
            offset = 0.1 if 'conv_offset' in name else 1
            assert groups[prefix + name]['lr'] == pytest.approx(1e-3 * 0.5**(6 - depth) * offset)
    outside = {n: g for n, g in groups.items() if not n.startswith(prefix)}
    assert outside and all(g['lr'] == 1e-3 for g in outside.values())
    no_decay = {n for n, g in groups.items() if g['weight_decay'] == 0}
    assert {prefix + 'stages.1.blocks.0.norm2.weight', prefix + 'norm3.weight',
            prefix + 'stages.2.blocks.1.ffn.dwconv.bias'} <= no_decay
    assert prefix + 'stages.3.blocks.0.attn.l_kv.weight' not in no_decay


def test_rates_of_a_plain_model():
    check(LITv2Classifier(GOLDEN_ARCH, num_classes=3))


def test_frozen_stages_have_no_group():
    groups = groups_of(LITv2Classifier(GOLDEN_ARCH, frozen_stages=2), layer_decay_rate=0.5)
    frozen = ('backbone.patch_embed', 'backbone.stages.0', 'backbone.stages.1')
    assert not any(name.startswith(frozen) for name in groups)
    assert groups['backbone.stages.2.blocks.0.norm1.weight']['lr'] == pytest.approx(1e-3 / 8)


def test_backbones_inside_of_others():
    pair = nn.ModuleDict(dict(student=LITv2Classifier(GOLDEN_ARCH),
                              teacher=LITv2Classifier(GOLDEN_ARCH)))
    check(pair['student'])
    groups = groups_of(pair, layer_decay_rate=0.5)
    for part in pair:
        assert groups[f'{part}.backbone.patch_embed.proj.weight']['lr'] == pytest.approx(1e-3 / 64)


@pytest.mark.parametrize('paramwise', [dict(), dict(norm_decay_mult=0.), dict(layer_decay_rate=0),
                                       dict(layer_decay_rate=1.5), dict(layer_decay_rate='0.5')])
def test_a_rate_is_needed(paramwise):
    with pytest.raises(ArgumentError, match='layer_decay_rate='):
        groups_of(LITv2Classifier(GOLDEN_ARCH), **paramwise)


def test_models_without_depths_are_refused():
    with pytest.raises(ArgumentError, match='no backbone with get_layer_depth'):
        groups_of(nn.Linear(2, 2), layer_decay_rate=0.5)
