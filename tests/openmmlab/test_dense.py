"""RetinaNet, Mask R-CNN, Semantic FPN on a small LITv2: sizes, batches, empty images, freezing."""
import importlib

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch.nn.modules.batchnorm import _BatchNorm

import mmlit  # noqa: F401, registers LITv2

from ..conftest import GOLDEN_ARCH

BASES = {
    'retinanet': ('mmdet', 'models/retinanet_r50_fpn'),
    'mask-rcnn': ('mmdet', 'models/mask-rcnn_r50_fpn'),
    'fpn': ('mmseg', 'models/fpn_r50'),
}
CLASSES = {'retinanet': 80, 'mask-rcnn': 80, 'fpn': 19}


def build(name: str, **backbone):
    toolkit, base = BASES[name]
    importlib.import_module(f'{toolkit}.models')
    init_default_scope(toolkit)
    cfg = Config.fromstring(f"_base_ = '{toolkit}::_base_/{base}.py'", '.py').model
    norms = (1, 2, 3) if toolkit == 'mmdet' else (0, 1, 2, 3)
    cfg.backbone = dict(type='LITv2', arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3),
                        norm_indices=norms, **backbone)
    cfg.neck.in_channels = GOLDEN_ARCH['embed_dims']
    if toolkit == 'mmseg':
        cfg.pretrained = None
        cfg.data_preprocessor.size_divisor = 32
    models = importlib.import_module(f'{toolkit}.registry').MODELS
    model = revert_sync_batchnorm(models.build(cfg))
    model.init_weights()
    return model


def batch(name: str, sizes, objects: int = 1) -> dict:
    """Images (B of different sizes) with that many objects each."""
    inputs, samples = [], []
    for h, w in sizes:
        inputs.append(torch.randint(0, 256, (3, h, w), dtype=torch.uint8))
        meta = dict(img_shape=(h, w), ori_shape=(h, w), scale_factor=(1, 1))
        if name == 'fpn':
            sample = SegDataSample(metainfo=meta)
            labels = torch.randint(0, 19, (1, h, w)) if objects else torch.full((1, h, w), 255)
            sample.gt_sem_seg = PixelData(data=labels)
        else:
            sample = DetDataSample(metainfo=meta)
            boxes = torch.tensor([[2., 3., w - 4., h - 5.]])[:objects].reshape(-1, 4)
            masks = torch.zeros(objects, h, w, dtype=torch.uint8)
            masks[:, 3:-5, 2:-4] = 1
            sample.gt_instances = InstanceData(
                bboxes=boxes, labels=torch.arange(objects),
                masks=BitmapMasks(masks.numpy(), h, w))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def loss_of(model, data) -> torch.Tensor:
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    parts = [v for k, v in losses.items() if 'loss' in k]
    return sum(sum(p) if isinstance(p, list) else p for p in parts)


@pytest.mark.parametrize('sizes', [
    [(32, 48)], [(33, 71), (64, 50)], [(96, 64), (50, 75), (80, 80)], [(800, 1333)]], ids=str)
@pytest.mark.parametrize('name', BASES)
def test_sizes_and_batches(name, sizes):
    torch.manual_seed(0)
    model = build(name)
    if name == 'fpn' and len(sizes) > 1:  # mmseg stacks: its batches are of one size
        sizes = sizes[:1] * len(sizes)
    data = batch(name, sizes)
    if sizes[0] != (800, 1333):
        loss = loss_of(model.train(), data)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.backbone.parameters())
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(data, False), mode='predict')
    assert len(results) == len(sizes)
    if name == 'fpn':
        assert results[0].pred_sem_seg.shape == sizes[0]
    else:
        assert results[0].pred_instances.bboxes.isfinite().all()


@pytest.mark.parametrize('name', BASES)
def test_image_without_objects(name):
    model = build(name)
    loss = loss_of(model.train(), batch(name, [(64, 96), (64, 96)], objects=0))
    loss.backward()
    assert loss.isfinite()


RESIZES = {
    'choice': [dict(type='RandomChoiceResize', scales=[(96, 64), (144, 96), (200, 120)],
                    keep_ratio=True)],
    'ratio': [dict(type='RandomResize', scale=(120, 80), ratio_range=(0.6, 2.0), keep_ratio=True)],
}


@pytest.mark.parametrize('resize', RESIZES)
@pytest.mark.parametrize('name', BASES)
def test_multi_scale_training(name, resize):
    """Images of one batch, and of every step, in other sizes; mmseg's batches are cropped."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = build(name).train()
    toolkit, kind = BASES[name][0], dict(mmdet='Det', mmseg='Seg')[BASES[name][0]]
    steps = list(RESIZES[resize])
    if toolkit == 'mmseg':
        model.data_preprocessor.size_divisor, model.data_preprocessor.size = None, (96, 128)
        steps.append(dict(type='RandomCrop', crop_size=(96, 128)))
    importlib.import_module(f'{toolkit}.datasets')
    transforms = importlib.import_module(f'{toolkit}.registry').TRANSFORMS
    pipeline = [transforms.build(step) for step in [*steps, dict(type=f'Pack{kind}Inputs')]]
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-4)))
    sizes = set()
    for _ in range(4):
        samples = []
        for shape in ((60, 90), (90, 70)):
            sample = truth(kind, *shape)
            for transform in pipeline:
                sample = transform(sample)
            samples.append(sample)
        data = pseudo_collate(samples)
        sizes |= {tuple(x.shape[1:]) for x in data['inputs']}
        loss = loss_of(model, data)
        assert loss.isfinite()
        optimizer.update_params(loss)
    assert len(sizes) >= 4
    assert all(p.isfinite().all() for p in model.parameters())


def truth(kind: str, h: int, w: int) -> dict:
    """An image with one object, as a pipeline has it after loading."""
    results = dict(img=np.random.randint(0, 256, (h, w, 3), np.uint8), img_shape=(h, w),
                   ori_shape=(h, w), img_path='none.png', img_id=0)
    mask = np.zeros((h, w), np.uint8)
    mask[5:40, 10:50] = 1
    if kind == 'Seg':
        return dict(results, gt_seg_map=mask, seg_fields=['gt_seg_map'])
    return dict(
        results, gt_bboxes=HorizontalBoxes([[10., 5., 50., 40.]]), gt_bboxes_labels=np.array([1]),
        gt_ignore_flags=np.array([False]), gt_masks=BitmapMasks(mask[None], h, w))


@pytest.mark.parametrize('frozen', range(5))
@pytest.mark.parametrize('name', ['retinanet', 'fpn'])
def test_frozen_stages_in_a_training_step(name, frozen):
    model = build(name, frozen_stages=frozen).train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    optimizer.backward(loss_of(model, batch(name, [(64, 96)] * 2)))

    fixed = ('patch_embed.', *(f'stages.{i}.' for i in range(frozen)),
             *(f'norm{i}.' for i in range(frozen)))
    for key, p in model.backbone.named_parameters():
        assert (p.grad is None) == key.startswith(fixed), key
    optimizer.step()
    for key, value in model.backbone.state_dict().items():
        if key.startswith(fixed):
            assert torch.equal(value, before[key]), key
    running = [m for i in range(frozen, 3) for m in model.backbone.stages[i].modules()
               if isinstance(m, _BatchNorm)]
    assert all(m.num_batches_tracked == 1 for m in running)


@pytest.mark.parametrize('name', BASES)
def test_checkpointed_blocks_give_the_same_gradients(name):
    torch.manual_seed(1)
    plain, saving = build(name, with_cp=False), build(name, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    data = batch(name, [(64, 96)] * 2)
    for model in (plain, saving):
        torch.manual_seed(2)  # the boxes that a sampler draws
        loss_of(model.train(), data).backward()
    for (key, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None
            continue
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6, msg=key)


def test_region_features_are_those_of_the_maps():
    # mmcv's RoIAlign takes the memory of any map for (B, C, H, W), channels-last or not.
    model = build('mask-rcnn').eval()
    rois = torch.tensor([[0, 4., 4., 60., 50.], [0, 10., 20., 90., 60.]])
    with torch.no_grad():
        maps = model.neck(model.backbone(torch.randn(1, 3, 64, 96)))[:4]
        for align, features in zip(
                model.roi_head.bbox_roi_extractor.roi_layers, maps, strict=True):
            copy = features.clone(memory_format=torch.contiguous_format)
            assert torch.equal(align(features, rois), align(copy, rois))
