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
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmengine.utils import get_installed_path
from mmseg.structures import SegDataSample

from mmlit.openmmlab.scopes import import_scope

from ..conftest import GOLDEN_ARCH
from .conftest import needs_mmpretrain

CHANNELS = GOLDEN_ARCH['embed_dims']
SIZE = 64
# What makes a model small: layers of heads, queries, sampled boxes, detections.
FEWER = dict(num_queries=10, num_proposals=10, stacked_convs=1, num_convs=1, fc_out_channels=64,
             num=32, nms_pre=50, max_per_img=5, feedforward_channels=64)


def build(scope: str, path: str, changes: dict):
    """The model of a toolkit's config, on LITv2, without its checkpoints."""
    init_default_scope(scope)
    cfg = Config.fromfile(f'{get_installed_path(scope)}/.mim/configs/{path}.py')
    cfg.default_scope = import_scope(cfg)
    cfg.merge_from_dict(changes)
    model = cfg.model
    if scope == 'mmdet':
        model.data_preprocessor.pop('batch_augments', None)
    elif scope == 'mmseg':
        model.data_preprocessor.size = (SIZE, SIZE)
    else:
        model.data_preprocessor = cfg.get('data_preprocessor')
        model.pop('train_cfg', None)
    model.pop('pretrained', None)
    model.backbone = dict(type='mmlit.LITv2', arch=GOLDEN_ARCH, **cfg.get('litv2', {}))
    _shrink(model)
    return revert_sync_batchnorm(MODELS.build(model))


def _shrink(config, parent: str = '') -> None:
    fewer = FEWER | (dict(num_layers=1) if parent.endswith('coder') else {})
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if key in fewer and isinstance(value, int):
            config[key] = min(value, fewer[key])
        elif isinstance(value, dict | list):
            _shrink(value, str(key))
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
    'solov2/solov2_r50_fpn_1x_coco': neck() | {
        'model.mask_head.num_grids': [8, 6, 4, 3, 2], 'model.mask_head.feat_channels': 64},
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': ALL | {
        'model.panoptic_head.in_channels': CHANNELS},
}


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.split('/')[0])
def test_detectors(path):
    torch.manual_seed(0)
    model = build('mmdet', path, DETECTORS[path])
    model.init_weights()
    batch = demo_mm_inputs(2, [[3, SIZE, SIZE]] * 2, num_classes=3, num_items=[2, 2],
                           with_mask='rtmdet' not in path, with_semantic=True, use_box_type=True)
    MessageHub.get_current_instance().update_info('epoch', 0)  # a Runner's work; TOOD asks
    losses = train_step(model, copy.deepcopy(batch))
    assert 'loss' in losses
    for found in predict(model, batch):
        if 'pred_instances' not in found:
            assert found.pred_panoptic_seg.sem_seg.shape[-2:] == (SIZE, SIZE)
            continue
        found = found.pred_instances
        assert found.bboxes.shape == (len(found.scores), 4)
        assert torch.isfinite(found.scores).all() and (found.labels < 80).all()


def head(indices=(0, 1, 2, 3), *cascade: str, auxiliary: int | None = None) -> dict:
    """Changes of a segmentor: channels of its decode heads, and of its auxiliary head, if any."""
    channels = [CHANNELS[i] for i in indices]
    value = channels if len(channels) > 1 else channels[0]
    changes = {'litv2': dict(out_indices=(0, 1, 2, 3))}
    for name in cascade or ('decode_head', ):
        changes[f'model.{name}.in_channels'] = value
    if auxiliary is not None:
        changes['model.auxiliary_head.in_channels'] = CHANNELS[auxiliary]
    return changes


SEGMENTORS = {
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512': neck(),
    'upernet/upernet_r50_4xb2-40k_cityscapes-512x1024': head(auxiliary=2),
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512': head(),
    'fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024': head(
        (3, ), auxiliary=2) | {'model.decode_head.c1_in_channels': CHANNELS[0]},
    'danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024': head((1, 2, 3), auxiliary=2),
    'ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024': head((2, 3), auxiliary=2),
    'apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024': head((3, ), auxiliary=2),
    'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512': head((1, 2, 3)),
    'ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024': head(
        (2, ), 'decode_head.0', 'decode_head.1') | {'model.decode_head.1.in_index': 2},
    'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024': neck(),
    'mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024': head(),
}


@pytest.mark.parametrize('path', SEGMENTORS, ids=lambda path: path.split('/')[0])
def test_segmentors(path):
    torch.manual_seed(0)
    changes = {**SEGMENTORS[path], 'model.test_cfg': dict(mode='whole')}
    model = build('mmseg', path, changes)
    model.init_weights()
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE),
                                             pad_shape=(SIZE, SIZE), padding_size=[0] * 4))
        sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, SIZE, SIZE)))
        samples.append(sample)
    batch = dict(inputs=[torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)] * 2,
                 data_samples=samples)
    train_step(model, copy.deepcopy(batch))
    for found in predict(model, batch):
        assert found.pred_sem_seg.data.shape == (1, SIZE, SIZE)
        assert found.pred_sem_seg.data.max() < 150


RESNET, C = 'resnet/resnet50_8xb32_in1k', CHANNELS[3]
LOSS = dict(type='CrossEntropyLoss')
GAP = dict(type='GlobalAveragePooling')
HEADS = {
    'linear': dict(type='LinearClsHead', num_classes=5, in_channels=C, loss=LOSS),
    'stacked linear': dict(type='StackedLinearClsHead', num_classes=5, in_channels=C,
                           mid_channels=[16], loss=LOSS),
    'multi-label': dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=C),
    'csra': dict(type='CSRAClsHead', num_classes=5, in_channels=C, num_heads=2, lam=0.1,
                 loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    'arcface': dict(type='ArcFaceClsHead', num_classes=5, in_channels=C, loss=LOSS),
    'margin': dict(type='ArcFaceClsHead', num_classes=5, in_channels=C, num_subcenters=2,
                   loss=LOSS),
    'multi-task': dict(type='MultiTaskHead', in_channels=C, task_heads=dict(
        a=dict(type='LinearClsHead', num_classes=2), b=dict(type='LinearClsHead', num_classes=5))),
    'vig': dict(type='VigClsHead', num_classes=5, in_channels=C, hidden_dim=16),
    'efficientformer': dict(type='EfficientFormerClsHead', num_classes=5, in_channels=C,
                            distillation=False, loss=LOSS),
}
NECKS = {'csra': None, 'arcface': dict(type='GeneralizedMeanPooling')}


@needs_mmpretrain
@pytest.mark.parametrize('name', HEADS)
def test_classifier_heads(name):
    from mmpretrain.structures import DataSample, MultiTaskDataSample
    torch.manual_seed(0)
    model = build('mmpretrain', RESNET, {
        'litv2': {}, 'model.head': dict(HEADS[name], _delete_=True),
        'model.neck': NECKS.get(name, GAP)})
    model.init_weights()
    multi, samples = name in ('multi-label', 'csra'), []
    for label in (1, 0):
        sample = DataSample().set_gt_label([label] if multi else label)
        if name == 'multi-task':
            sample, tasks = MultiTaskDataSample(), sample
            sample.set_field(tasks, 'a')
            sample.set_field(tasks.clone(), 'b')
        samples.append(sample)
    batch = dict(inputs=[torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)] * 2,
                 data_samples=samples)
    train_step(model, copy.deepcopy(batch))
    for found in predict(model, batch):
        found = found.b if name == 'multi-task' else found
        assert torch.isfinite(found.pred_score).all() and found.pred_score.shape == (5, )


SELF_SUPERVISED = {
    'simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k': {},
    'byol/byol_resnet50_16xb256-coslr-200e_in1k': {},
    'barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k': {
        'model.neck.out_channels': 64, 'model.head.in_channels': 64},
    'mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k': {},
    'simclr/simclr_resnet50_16xb256-coslr-200e_in1k': {},
}


@needs_mmpretrain
@pytest.mark.parametrize('path', SELF_SUPERVISED, ids=lambda path: path.split('/')[0])
def test_self_supervised(path):
    from mmpretrain.structures import DataSample
    torch.manual_seed(0)
    model = build('mmpretrain', path, {
        'litv2': {}, 'model.neck.in_channels': C, 'model.neck.hid_channels': 32,
        **SELF_SUPERVISED[path]})
    model.init_weights()
    views = [torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(4)]
    batch = dict(inputs=[torch.stack(views[:2]), torch.stack(views[2:])],
                 data_samples=[DataSample(), DataSample()])
    train_step(model, batch)
    with torch.no_grad():
        features = model.eval().extract_feat(torch.stack(views).float())
    assert features[-1].shape == (4, C, SIZE // 32, SIZE // 32)
