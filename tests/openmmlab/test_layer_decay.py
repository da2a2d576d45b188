"""Layer-wise learning rates in mmdet, mmseg and mmpretrain."""
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from ..conftest import GOLDEN_ARCH
from ..test_layer_decay import DEPTHS, check

DIMS = GOLDEN_ARCH['embed_dims']


def build(scope: str):
    if scope == 'mmpretrain':
        return MODELS.build(dict(
            type='mmpretrain.ImageClassifier', backbone=dict(type='LITv2', arch=GOLDEN_ARCH),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=DIMS[3])))
    base = dict(mmdet='retinanet_r50_fpn', mmseg='fpn_r50')[scope]
    cfg = Config.fromstring(f"_base_ = ['{scope}::_base_/models/{base}.py']", '.py').model
    cfg.backbone = dict(type='LITv2', arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3))
    cfg.neck.in_channels = DIMS
    if scope == 'mmseg':
        cfg.pretrained = None
    cfg.type = f'{scope}.{cfg.type}'
    return MODELS.build(cfg)


@pytest.fixture(params=['mmdet', 'mmseg', 'mmpretrain'])
def model(request):
    scope = request.param
    pytest.importorskip(scope)
    __import__(f'{scope}.engine')
    __import__(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope):
        yield build(scope)


def test_rates_from_the_scope_of_each_toolkit(model):
    check(model)


@pytest.mark.parametrize('model', ['mmdet', 'mmseg'], indirect=True)
def test_constructors_of_convnext_refuse_others(model):
    """mmdet's and mmseg's own know two families of names: nothing is decayed in silence."""
    with pytest.raises(NotImplementedError):
        build_optim_wrapper(model, dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_rate=0.5, decay_type='layer_wise', num_layers=5)))


@pytest.mark.parametrize('model', ['mmpretrain'], indirect=True)
def test_constructor_of_mmpretrain(model):
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='LearningRateDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.)))
    rates = {g['param_name']: g['lr'] for g in wrapper.optimizer.param_groups}
    for name, depth in DEPTHS.items():
        assert rates[f'backbone.{name}'] == pytest.approx(1e-3 * 0.5**(6 - depth))
    assert rates['head.fc.weight'] == 1e-3
