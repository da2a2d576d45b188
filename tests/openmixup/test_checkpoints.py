"""openmixup's models of several networks: their own files, and those of one LITv2."""
import copy

import mmcv
import pytest
import torch
from openmixup.models import build_model

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.checkpoints import convert, describe, fill_model
from mmlit.checkpoints.exporting import TARGETS
from mmlit.errors import CheckpointError

from ..conftest import DATA, GOLDEN_ARCH

LIT = dict(type='LITv2', arch=GOLDEN_ARCH)
RESNET = dict(type='ResNet', depth=18, num_stages=4, out_indices=(3, ), style='pytorch')
HEAD = dict(type='ClsHead', with_avg_pool=True, num_classes=10)


def classification(backbone=LIT, channels=128) -> dict:
    return dict(type='MixUpClassification', backbone=backbone, alpha=1, mix_mode='vanilla',
                head=dict(HEAD, in_channels=channels))


def automix(backbone=LIT, channels=(64, 128)) -> dict:
    head = dict(HEAD, in_channels=channels[1])
    return dict(
        type='AutoMixup', backbone=dict(backbone, out_indices=(2, 3)), alpha=2., momentum=0.999,
        mask_layer=2, mask_loss=0.1, mask_adjust=0,
        mix_block=dict(type='PixelMixBlock', in_channels=channels[0], reduction=2, use_scale=True,
                       unsampling_mode=['nearest'], lam_concat=False, lam_concat_v=False,
                       lam_mul=False, lam_residual=False, lam_mul_k=-1, value_neck_cfg=None,
                       x_qk_concat=False, x_v_concat=False, mask_loss_mode='L1+Variance',
                       mask_loss_margin=0.1),
        head_one=dict(head), head_mix=dict(head),
        head_weights=dict(head_mix_q=1, head_one_q=1, head_mix_k=1, head_one_k=1))


def moco() -> dict:
    return dict(type='MOCO', backbone=LIT, queue_len=64, feat_dim=16, momentum=0.999,
                neck=dict(type='MoCoV2Neck', in_channels=128, hid_channels=32, out_channels=16,
                          with_avg_pool=True),
                head=dict(type='ContrastiveHead', temperature=0.2))


MODELS = dict(automix=automix(), moco=moco(), resnet=classification(RESNET, 512),
              litv2=classification())


def built(config: dict) -> torch.nn.Module:
    return build_model(mmcv.Config(dict(model=copy.deepcopy(config))).model)


@pytest.mark.parametrize('name', MODELS)
def test_their_own_files_are_loaded_to_start_from_to_test_and_to_resume(tmp_path, name):
    source = built(MODELS[name])
    with torch.no_grad():
        for value in source.state_dict().values():
            value.add_(1)
    torch.save(dict(state_dict=source.state_dict(), meta=describe(source)), tmp_path / 'x.pth')
    for kwargs in ({}, dict(strict=True)):
        model = built(MODELS[name])
        checkpoint = load_checkpoint(model, tmp_path / 'x.pth', **kwargs)
        for key, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    model = built(MODELS[name])
    fill_model(model, checkpoint, 'x.pth', resume=True)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize('name', ['automix', 'moco'])
def test_every_network_starts_from_the_weights_of_one(name):
    model, lit = built(MODELS[name]), LITv2(GOLDEN_ARCH)
    load_checkpoint(model, DATA / 'official_cls.pth')
    load_checkpoint(lit, DATA / 'official_cls.pth')
    for backbone in (m for m in model.modules() if isinstance(m, LITv2)):
        for key, value in lit.stages.state_dict().items():
            assert torch.equal(backbone.stages.state_dict()[key], value), key


def test_a_classifier_takes_what_automix_predicts_with(tmp_path):
    source = built(MODELS['automix'])
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    model = built(MODELS['litv2'])
    load_checkpoint(model, tmp_path / 'x.pth')
    for key, value in model.backbone.stages.state_dict().items():
        assert torch.equal(value, source.backbone_k.stages.state_dict()[key]), key
    assert torch.equal(model.head.fc.weight, source.head_one_k.fc.weight)
    with pytest.raises(CheckpointError, match='no place for .*backbone_k'):
        load_checkpoint(model, tmp_path / 'x.pth', strict=True)


@pytest.mark.parametrize('theirs, ours', [(34, 18), (18, 34)])
def test_another_baseline_is_refused(theirs, ours):
    state = built(classification(dict(RESNET, depth=theirs), 512)).state_dict()
    model = built(classification(dict(RESNET, depth=ours), 512))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match='layer1.2.'):
        fill_model(model, state, 'x.pth')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@torch.no_grad()
def test_of_automix_the_release_gets_the_classifier():
    source, plain = built(MODELS['automix']).eval(), LITv2Classifier(GOLDEN_ARCH, 10).eval()
    state = TARGETS['official'](*convert(source.state_dict())[1:])
    assert list(state) == ['model'] and 'norm.weight' in state['model']
    fill_model(plain, state, 'x.pth', strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain(x).softmax(1), source(x, mode='inference'))
