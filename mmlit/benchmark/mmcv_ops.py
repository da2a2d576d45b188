"""mmcv's operators as mmlit supplies them, beside those that mmcv compiles.

mmcv's own functions and layers are called in both cases, and find their operators in one module or
the other: what is compared is all that a detector calls.
"""
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from mmlit.mmcv_ops import is_compiled
from mmlit.mmcv_ops.extension import module

DETECTORS = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
             'configs/detection/mask-rcnn_litv2-s_fpn_1x_coco.py']
IMAGE = 800, 1333


@contextmanager
def calling(extension: ModuleType) -> Iterator[None]:
    """Let mmcv's functions call the operators of ``extension``."""
    import mmcv.ops  # noqa: F401
    users = [m for name, m in list(sys.modules.items())
             if name.startswith('mmcv.ops.') and hasattr(m, 'ext_module')]
    before = [user.ext_module for user in users]
    try:
        for user in users:
            user.ext_module = extension
        yield
    finally:
        for user, theirs in zip(users, before, strict=True):
            user.ext_module = theirs


def forms(run: Callable) -> dict[str, Callable]:
    """A function calling mmlit's operators, and, where there are any, mmcv's compiled ones."""
    def called(extension: ModuleType) -> Callable:
        def form():
            with calling(extension):
                run()
        return form

    found = dict(mmlit=called(module()))
    if is_compiled():
        found['mmcv'] = called(importlib.import_module('mmcv._ext'))
    return found


def boxes(count: int, side: float, height: int, width: int) -> Tensor:
    """Boxes (N, 4) of sides up to ``side``, with centres inside an image."""
    centre = torch.rand(count, 2) * torch.tensor([width, height])
    half = torch.rand(count, 2) * side / 2
    return torch.cat([centre - half, centre + half], dim=1)


def operator_cases(scale: float = 1.) -> dict[str, Callable]:
    """What is timed, by name, at the sizes of an 800 x 1333 image times ``scale``.

    Names that end in 'backward' are of the forward pass and its gradients.
    """
    from mmcv import ops
    torch.manual_seed(0)
    H, W = (int(n * scale) for n in IMAGE)
    cases = {}

    def add(name: str, run: Callable) -> None:
        cases[f'{name}, forward'] = torch.no_grad()(run)
        cases[f'{name}, forward and backward'] = lambda: run().sum().backward()

    def add_roi_align(name: str, stride: int, count: int, side: float, size: int,
                      ratio: int) -> None:
        x = torch.randn(1, 256, -(-H // stride), -(-W // stride), requires_grad=True)
        found = boxes(count, side * scale, H, W)
        rois = torch.cat([torch.zeros(count, 1), found], dim=1)
        add(f'RoIAlign, {name}', lambda: ops.roi_align(x, rois, size, 1 / stride, ratio))

    add_roi_align('512 boxes up to 120 px, stride 4', 4, 512, 120, 7, 0)
    add_roi_align('512 boxes up to 120 px, stride 4, 2 points', 4, 512, 120, 7, 2)
    add_roi_align('512 boxes up to 400 px, stride 4', 4, 512, 400, 7, 0)
    add_roi_align('10 boxes up to 120 px, stride 4', 4, 10, 120, 7, 0)
    add_roi_align('100 boxes up to 400 px, stride 16, 14 x 14', 16, 100, 400, 14, 0)
    for name, layer, C, stride in (
            ('DeformConv2d', ops.DeformConv2dPack, 256, 16),
            ('ModulatedDeformConv2d', ops.ModulatedDeformConv2dPack, 256, 16),
            ('DeformConv2d', ops.DeformConv2dPack, 512, 32)):
        layer = layer(C, C, 3, padding=1)
        nn.init.normal_(layer.conv_offset.weight, std=0.01)
        x = torch.randn(1, C, H // stride, W // stride, requires_grad=True)
        add(f'{name}, {C} channels, stride {stride}', lambda x=x, layer=layer: layer(x))
    for count in (1000, 10000):
        for threshold in (0.3, 0.7):
            found, scores = boxes(count, 200, *IMAGE), torch.rand(count)
            cases[f'NMS, {count} boxes, IoU {threshold}'] = (
                lambda f=found, s=scores, t=threshold: ops.nms(f, s, t))
    return cases


def detector_cases(config: str, shape: tuple[int, int] = IMAGE) -> dict[str, Callable]:
    """A training step and a prediction of a detector of mmdet's, with weights drawn at random.

    Args:
        config: Path, or name in a toolkit ('mmdet::...').
        shape: Height and width of the image.
    """
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.hub import get_config
    from mmengine.logging import MMLogger
    from mmengine.structures import InstanceData
    register_all_modules()
    MMLogger.get_current_instance().setLevel('WARNING')  # not how each weight is drawn
    model = (get_config(config) if '::' in config else Config.fromfile(config)).model
    model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    # As drawn, no class reaches the threshold of a detection: no NMS and no masks.
    nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.1)
    gt = boxes(20, 0.4 * shape[0], *shape)
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(
        bboxes=gt, labels=torch.arange(20),
        masks=BitmapMasks(np.random.RandomState(0).rand(20, *shape).astype(np.float32) > 0.5,
                          *shape))
    data = dict(inputs=[torch.randint(256, (3, *shape), dtype=torch.uint8)], data_samples=[sample])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.)

    def train():
        torch.manual_seed(0)  # mmdet draws the boxes that are trained on
        model.train()
        batch = model.data_preprocessor(data, True)
        loss, _ = model.parse_losses(model.loss(batch['inputs'], batch['data_samples']))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict():
        model.eval()
        with torch.no_grad():
            batch = model.data_preprocessor(data, False)
            return model.predict(batch['inputs'], batch['data_samples'])

    name = Path(config).stem
    return {f'{name}, training step': train, f'{name}, prediction': predict}
