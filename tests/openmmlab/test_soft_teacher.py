"""Checkpoints of mmdet's Soft Teacher, which is two whole detectors."""
import importlib

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmlit  # noqa: F401, registers LITv2
from mmlit.checkpoints import fill_model
from mmlit.errors import CheckpointError

from ..conftest import GOLDEN_ARCH


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
