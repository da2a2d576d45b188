"""Multiply-adds of whole detectors and segmentors: the last column of docs/dense_flops.md."""
from pathlib import Path

import pytest

from mmlit import LITv2
from mmlit.analysis.configs import flops_of_config

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(autouse=True)
def no_initialisation(monkeypatch):
    monkeypatch.setattr(LITv2, '_reset_parameters', lambda self: None)


@pytest.mark.parametrize('config, shape, giga', [
    ('detection/retinanet_litv2-s-ws4_fpn_1x_coco.py', (800, 1280), 233.2),
    ('detection/mask-rcnn_litv2-s_fpn_1x_coco.py', (800, 1280), 264.5),
    ('segmentation/litv2-s_fpn_8xb2-80k_ade20k-512x512.py', (512, 512), 42.1),
])
def test_documented_figures(config, shape, giga):
    counts, model = flops_of_config(str(CONFIGS / config), shape)
    assert round(counts[''] / 1e9, 1) == giga
    assert set(counts) == {name for name, _ in model.named_modules()}
    parts = [counts[name] for name, _ in model.named_children() if name != 'data_preprocessor']
    assert sum(parts) == counts['']


def test_cascade():
    counts, _ = flops_of_config(
        str(CONFIGS / 'detection/cascade-mask-rcnn_litv2-s_fpn_ms-3x_coco.py'), (320, 320))
    stages = [counts[f'roi_head.bbox_head.{i}'] for i in range(3)]
    assert stages[0] == stages[1] == stages[2] > 0
    assert counts['roi_head'] == 3 * (stages[0] + counts['roi_head.mask_head.0'])
