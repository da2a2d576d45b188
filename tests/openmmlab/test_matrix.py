"""LITv2 in the toolkits' own configs: each builds, learns from a batch, and predicts.

The configs are the toolkits' (mmdet's, mmseg's, mmpretrain's), with LITv2 in place of their
backbone. What is left out does not take maps of a pyramid at strides 4 to 32: YOLOv3 and SSD
(strides of their own), CornerNet (hourglass), SETR and SegmentER (one stride for all maps), BiSeNet
and STDC (the segmentor is the backbone), mmpretrain's heads for tokens (VisionTransformerClsHead).
"""
import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmengine.utils import get_installed_path
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmlit.openmmlab.scopes import import_scope

from ..conftest import GOLDEN_ARCH

CHANNELS = GOLDEN_ARCH['embed_dims']
SIZE = 64
# What makes a model small: layers of transformers, stages of a cascade, queries.
FEWER = dict(num_layers=1, num_queries=10, num_proposals=10)


def build(scope: str, path: str, changes: dict):
    """The model of a toolkit's config, on LITv2, without its checkpoints."""
    init_default_scope(scope)
    cfg = Config.fromfile(f'{get_installed_path(scope)}/.mim/configs/{path}.py')
    cfg.default_scope = import_scope(cfg)
    cfg.merge_from_dict(changes)
    model = cfg.model
    if scope != 'mmpretrain' and 'data_preprocessor' in model:
        model.data_preprocessor.pop('batch_augments', None)
        model.data_preprocessor.pop('size', None)
    elif scope == 'mmpretrain':
        model.data_preprocessor = cfg.get('data_preprocessor')
        model.pop('train_cfg', None)
    model.pretrained = None
    model.backbone = dict(type='mmlit.LITv2', arch=GOLDEN_ARCH, **cfg.get('litv2', {}))
    _shrink(model)
    return revert_sync_batchnorm(MODELS.build(model))


def _shrink(config) -> None:
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if key in FEWER:
            config[key] = min(value, FEWER[key])
        elif isinstance(value, dict | list):
            _shrink(value)
    if isinstance(config, dict):
        config.pop('init_cfg', None)


def train_step(model, batch: dict) -> dict:
    """A step of SGD: every loss is finite, and the backbone moves."""
    weight = model.backbone.patch_embed.proj.weight
    before = weight.detach().clone()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    losses = model.train().train_step(batch, optimizer)
    assert losses and all(torch.isfinite(value).all() for value in losses.values()), losses
    assert not torch.equal(weight, before)
    return losses


def predict(model, batch: dict):
    with torch.no_grad():
        return model.eval().test_step(batch)


LAST3 = dict(litv2=dict(out_indices=(1, 2, 3)))
ALL = dict(litv2=dict(out_indices=(0, 1, 2, 3)))
LAST = dict(litv2=dict(out_indices=(3, )))


def neck(indices=(0, 1, 2, 3), key='in_channels') -> dict:
    return {'litv2': dict(out_indices=indices),
            f'model.neck.{key}': [CHANNELS[i] for i in indices]}


DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco': neck(),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': neck(),
    'atss/atss_r50_fpn_1x_coco': neck(),
    'gfl/gfl_r50_fpn_1x_coco': neck(),
    'paa/paa_r50_fpn_1x_coco': neck(),
    'tood/tood_r50_fpn_1x_coco': neck(),
    'yolof/yolof_r50-c5_8xb8-1x_coco': LAST | {'model.neck.in_channels': CHANNELS[3]},
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': neck((1, 2, 3)),
    'yolox/yolox_tiny_8xb8-300e_coco': neck((1, 2, 3)),
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': neck(),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': neck(),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco': neck(),
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': neck(),
    'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco': ALL | {
        'model.neck.0.in_channels': CHANNELS},
    'dyhead/atss_r50_fpn_dyhead_1x_coco': ALL | {'model.neck.0.in_channels': CHANNELS},
    'htc/htc_r50_fpn_1x_coco': neck(),
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco': neck(),
    'detr/detr_r50_8xb2-150e_coco': neck((3, )),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': neck((1, 2, 3)),
    'dino/dino-4scale_r50_8xb2-12e_coco': neck((1, 2, 3)),
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance': neck(),
    'solov2/solov2_r50_fpn_1x_coco': neck(),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': ALL | {
        'model.panoptic_head.in_channels': CHANNELS},
}


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.split('/')[0])
def test_detectors(path):
    torch.manual_seed(0)
    model = build('mmdet', path, DETECTORS[path])
    model.init_weights()
    batch = demo_mm_inputs(2, [[3, SIZE, SIZE]] * 2, num_classes=3, num_items=[2, 2],
                           with_mask=True, with_semantic=True, use_box_type=True)
    losses = train_step(model, copy.deepcopy(batch))
    assert 'loss' in losses
    for found in predict(model, batch):
        if 'pred_instances' not in found:
            assert found.pred_panoptic_seg.sem_seg.shape[-2:] == (SIZE, SIZE)
            continue
        found = found.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert torch.isfinite(found.scores).all() and (found.labels < 80).all()
