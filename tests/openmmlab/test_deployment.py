"""Detectors and segmentors as ONNX files, up to the outputs of their heads."""
import pytest
import torch

from mmlit.deployment import export_onnx, load_part, open_onnx
from mmlit.errors import ConfigError

from ..conftest import GOLDEN_ARCH

pytest.importorskip('onnxruntime', reason='onnxruntime is not installed (mmlit[onnx])')

CONFIGS = {
    'retinanet': """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='LITv2', arch={arch}, out_indices=(0, 1, 2, 3),
                  norm_indices=(1, 2, 3)),
    neck=dict(in_channels=[16, 32, 64, 128], start_level=1, add_extra_convs='on_input'))
""",
    'fpn': """
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type='LITv2', arch={arch}, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[16, 32, 64, 128]))
""",
    'mask-rcnn': """
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='LITv2', arch={arch}, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[16, 32, 64, 128]))
""",
}


@pytest.fixture
def config(tmp_path):

    def write(name: str):
        path = tmp_path / f'{name}.py'
        text = CONFIGS[name].replace('{arch}', repr(GOLDEN_ARCH))
        path.write_text(f"custom_imports = dict(imports=['mmlit'])\n{text}")
        return str(path)

    return write


def checkpoint_of(config: str, path) -> tuple[str, torch.nn.Module]:
    """Random weights, as a file, and the toolkit's model with them."""
    from mmlit.analysis.configs import build_model
    torch.manual_seed(0)
    model = build_model(config)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), path)
    return str(path), model.eval()


@torch.no_grad()
def check(path, model, names, sizes):
    run = open_onnx(path)
    for batch, *size in sizes:
        x = torch.randn(batch, 3, *size)
        outs = model(x)
        if isinstance(outs, torch.Tensor):
            expected = [outs]
        else:  # maps, or lists of them
            expected = [t for kind in outs
                        for t in ([kind] if isinstance(kind, torch.Tensor) else kind)]
        assert len(names) == len(expected)
        for a, b in zip(run(x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_retinanet(config, tmp_path):
    checkpoint, model = checkpoint_of(config('retinanet'), tmp_path / 'model.pth')
    part = load_part(config('retinanet'), checkpoint, 'head')
    assert part.outputs == [f'{kind}{level}' for kind in ('cls_score', 'bbox_pred')
                            for level in range(5)]
    export_onnx(part, tmp_path / 'model.onnx')
    check(tmp_path / 'model.onnx', model, part.outputs, [(1, 64, 96), (3, 160, 224), (2, 100, 75)])


@pytest.mark.slow
def test_segmentor(config, tmp_path):
    checkpoint, model = checkpoint_of(config('fpn'), tmp_path / 'model.pth')
    part = load_part(config('fpn'), checkpoint, 'head')
    assert part.outputs == ['seg_logits']
    export_onnx(part, tmp_path / 'model.onnx')
    check(tmp_path / 'model.onnx', model, part.outputs, [(1, 64, 96), (3, 160, 224), (2, 96, 160)])


@pytest.mark.slow
def test_backbone_of_a_detector(config, tmp_path):
    checkpoint, model = checkpoint_of(config('mask-rcnn'), tmp_path / 'model.pth')
    part = load_part(config('mask-rcnn'), checkpoint)
    export_onnx(part, tmp_path / 'model.onnx')
    check(tmp_path / 'model.onnx', model.backbone, part.outputs, [(1, 64, 96), (2, 75, 50)])
    steps = {name: step for kind in part.preprocessing['steps'] for name, step in kind.items()}
    assert steps['normalize'] == dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    assert steps['pad']['divisor'] == 32


def test_two_stages_are_refused(config):
    with pytest.raises(ConfigError, match='two stages'):
        load_part(config('mask-rcnn'), None, 'head')


def test_preprocessing_must_be_known(config, tmp_path):
    path = config('fpn')
    with open(path, 'a') as f:
        f.write("model['data_preprocessor'] = dict(_delete_=True, type='SegDataPreProcessor')\n")
    with pytest.raises(ConfigError, match='data_preprocessor has no mean and std'):
        load_part(path, None)


def test_no_classifier(config):
    with pytest.raises(ConfigError, match='no linear classifier'):
        load_part(config('fpn'), None, 'classifier')


def test_mmpretrain():
    pytest.importorskip('mmpretrain', reason='OneDL has no mmpretrain')
    part = load_part('configs/classification/imagenet/lit_v2/mmpretrain/litv2-s_8xb128_in1k.py',
                     None)
    assert part.outputs == ['logits']
    resize, crop = part.preprocessing['steps'][1:3]
    assert (resize['resize']['side'], crop['crop']['size']) == (256, [224, 224])


@pytest.mark.slow
def test_published_retinanet(tmp_path):
    """LITv2-S at a published experiment's size."""
    path = 'configs/detection/retinanet_litv2-s_fpn_1x_coco.py'
    checkpoint, model = checkpoint_of(path, tmp_path / 'model.pth')
    part = load_part(path, checkpoint, 'head')
    export_onnx(part, tmp_path / 'model.onnx')
    check(tmp_path / 'model.onnx', model, part.outputs, [(1, 800, 1216)])
