"""Whole detectors and segmentors of the official release, in mmdet's and mmseg's models."""
import importlib

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlit import load_checkpoint
from mmlit.checkpoints import convert, fill_model
from mmlit.checkpoints.exporting import TARGETS
from mmlit.errors import CheckpointError

from ..conftest import GOLDEN_ARCH
from .test_dense import build

SIZE = (64, 96)


@pytest.fixture
def official(tmp_path):
    """A model with random weights, and a file with its weights in the official layout."""

    def make(name: str):
        torch.manual_seed(0)
        model = build(name).eval()
        state = TARGETS['official'](*convert(model.state_dict())[1:])
        path = tmp_path / 'official.pth'
        torch.save({**state, 'meta': dict(epoch=12)}, path)
        return model, path

    return make


@torch.no_grad()
@pytest.mark.parametrize('name', ['retinanet', 'mask-rcnn', 'fpn'])
def test_whole_models(official, name):
    model, path = official(name)
    names = torch.load(path)['state_dict']
    assert any(k.startswith('backbone.layers.0.blocks.0.mlp.') for k in names)
    torch.manual_seed(1)
    fresh = build(name).eval()
    load_checkpoint(fresh, path, strict=True)
    for k, v in model.state_dict().items():
        assert torch.equal(v, fresh.state_dict()[k]), k
    x = torch.randn(1, 3, *SIZE)
    for a, b in zip(fresh.extract_feat(x), model.extract_feat(x), strict=True):
        assert torch.equal(a, b)


def test_a_detector_starts_a_segmentor(official):
    """Of a RetinaNet, a segmentor takes the backbone and says what it left."""
    model, path = official('retinanet')
    segmentor = build('fpn')
    load_checkpoint(segmentor, path)
    weight = 'backbone.stages.2.blocks.1.attn.l_q.weight'
    assert torch.equal(segmentor.state_dict()[weight], model.state_dict()[weight])
    with pytest.raises(CheckpointError, match='does not fit'):
        load_checkpoint(segmentor, path, strict=True)


# Soft Teacher: two whole detectors.


@pytest.fixture(scope='module')
def two_stages():
    """A Faster R-CNN's config, and a file of a Soft Teacher of two."""
    importlib.import_module('mmdet.models')
    init_default_scope('mmdet')
    cfg = Config.fromstring("_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'", '.py').model
    cfg.backbone = dict(type='LITv2', arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3))
    cfg.neck.in_channels = GOLDEN_ARCH['embed_dims']
    return cfg


def soft_teacher(detector):
    return MODELS.build(dict(
        type='SoftTeacher', detector=detector, data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor),
        semi_train_cfg=dict(freeze_teacher=True), semi_test_cfg=dict(predict_on='teacher')))


def test_soft_teacher_loads_its_own_files_and_one_detector_fills_both(two_stages):
    source, model = soft_teacher(two_stages), soft_teacher(two_stages)
    fill_model(model, dict(state_dict=source.state_dict()), 'x.pth', resume=True)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not torch.equal(model.student.rpn_head.rpn_cls.weight,
                           model.teacher.rpn_head.rpn_cls.weight)
    detector = MODELS.build(two_stages)
    fill_model(model, dict(state_dict=detector.state_dict()), 'x.pth')
    for network in (model.student, model.teacher):
        for key, value in detector.state_dict().items():
            assert torch.equal(network.state_dict()[key], value), key


def test_a_detector_takes_the_network_of_a_soft_teacher_that_is_named(two_stages):
    source, detector = soft_teacher(two_stages), MODELS.build(two_stages)
    checkpoint = dict(state_dict=source.state_dict())
    with pytest.raises(CheckpointError, match="several backbones, .*prefix='student.'"):
        fill_model(detector, checkpoint, 'x.pth')
    fill_model(detector, checkpoint, 'x.pth', strict=True, prefix='teacher')
    for key, value in source.teacher.state_dict().items():
        assert torch.equal(detector.state_dict()[key], value), key
