"""Whole detectors and segmentors of the official release, in mmdet's and mmseg's models, and
mmlit's checkpoints in the toolkits' own tools."""
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from mmlit import LITv2, load_checkpoint
from mmlit.checkpoints import convert, publish, read_checkpoint
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


ROOT = Path(__file__).parents[2]
CLASSES = ('ant', 'bee')
PALETTE = [[10, 20, 30], [40, 50, 60]]
BACKBONE = f"dict(_delete_=True, type='LITv2', arch={GOLDEN_ARCH}, out_indices=(0, 1, 2, 3))"
CONFIGS = {
    'mmdet': f'''
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
model = dict(
    backbone={BACKBONE},
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1))
test_dataloader = dict(dataset=dict(
    type='CocoDataset', ann_file='none.json', metainfo=dict(classes={CLASSES}, palette={PALETTE}),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)),
              dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                                    'scale_factor'))]))
''',
    'mmseg': f'''
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/default_runtime.py']
model = dict(
    pretrained=None, data_preprocessor=dict(size=None, size_divisor=32),
    backbone={BACKBONE},
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=16),
    decode_head=dict(num_classes=2, in_channels=[16] * 4, channels=16))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)),
                 dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=test_pipeline))
''',
    'mmpretrain': f'''
_base_ = ['mmpretrain::_base_/default_runtime.py']
model = dict(
    type='ImageClassifier', backbone=dict(type='LITv2', arch={GOLDEN_ARCH}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=128, topk=(1, ),
              loss=dict(type='CrossEntropyLoss')),
    data_preprocessor=dict(num_classes=2, mean=[0.] * 3, std=[255.] * 3))
test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')]))
'''}


class Images(torch.utils.data.Dataset):
    metainfo = dict(classes=CLASSES, palette=PALETTE)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> int:
        return i


@pytest.fixture(params=CONFIGS)
def trained(request, tmp_path):
    """A toolkit, a config, and a checkpoint as mmengine's own Runner writes it."""
    toolkit, config = request.param, tmp_path / f'{request.param}_tiny.py'
    config.write_text(CONFIGS[toolkit])
    cfg = Config.fromfile(config)
    runner = Runner(
        cfg.model, str(tmp_path / 'work'), default_scope=toolkit, experiment_name=str(tmp_path),
        train_dataloader=dict(batch_size=1, num_workers=0, dataset=Images(),
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for loss in (3., np.float32(2.), 1):
        runner.message_hub.update_scalar('train/loss', loss)
    runner.message_hub.update_info('best', np.float64(0.5))
    runner.save_checkpoint(str(tmp_path), 'epoch_1.pth')
    path = tmp_path / 'epoch_1.pth'
    log = torch.load(path, weights_only=False)['message_hub']['log_scalars']['train/loss']
    assert isinstance(log, HistoryBuffer)
    return toolkit, config, path, runner.model.state_dict()


def in_toolkit(toolkit: str, config: Path, checkpoint: Path) -> list:
    """Models that a toolkit's own tools load from a checkpoint, after they have predicted."""
    image = np.zeros((64, 64, 3), np.uint8)
    config, checkpoint = str(config), str(checkpoint)
    if toolkit == 'mmdet':
        from mmdet.apis import DetInferencer, inference_detector, init_detector
        model = init_detector(config, checkpoint, device='cpu')
        inference_detector(model, image)
        inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
        inferencer(image, no_save_vis=True)
    elif toolkit == 'mmseg':
        from mmseg.apis import MMSegInferencer, inference_model, init_model
        model = init_model(config, checkpoint, device='cpu')
        inference_model(model, image)
        inferencer = MMSegInferencer(config, checkpoint, device='cpu')
        inferencer(image)
    else:
        from mmpretrain import ImageClassificationInferencer, get_model
        model = get_model(config, checkpoint, device='cpu')
        inferencer = ImageClassificationInferencer(config, checkpoint, device='cpu')
        (found, ) = inferencer(image)
        assert found['pred_class'] in CLASSES
    return [model, inferencer.model]


def test_the_toolkits_own_tools_read_a_trainings_checkpoint(trained):
    """And what is published of it: with names and colours of the classes."""
    toolkit, config, path, state = trained
    published, _ = publish(path, path.with_name('out.pth'))
    for source in (path, published):
        for model in in_toolkit(toolkit, config, source):
            for name, value in model.state_dict().items():
                assert torch.equal(value, state[name]), name
            meta = model._dataset_meta if toolkit == 'mmpretrain' else model.dataset_meta
            assert tuple(meta['classes']) == CLASSES
            assert np.array_equal(meta['palette'], PALETTE)


def test_mmlits_tools_read_a_trainings_checkpoint(trained, monkeypatch, tmp_path):
    toolkit, config, path, state = trained
    assert read_checkpoint(path)['message_hub']['log_scalars']['train/loss'].mean() == 2
    backbone = LITv2(GOLDEN_ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    name = 'stages.2.blocks.1.attn.l_q.weight'
    assert torch.equal(backbone.state_dict()[name], state[f'backbone.{name}'])
    target = tmp_path / 'converted.pth'
    monkeypatch.setattr(sys, 'argv', ['', str(path), str(target), '--to', 'mmlit'])
    runpy.run_path(str(ROOT / 'tools/convert_checkpoint.py'), run_name='__main__')
    converted = read_checkpoint(target)
    assert tuple(converted['meta']['dataset_meta']['classes']) == CLASSES
    assert set(converted['state_dict']) == set(state)
