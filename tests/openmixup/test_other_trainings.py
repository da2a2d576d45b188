"""Trainings other than the demo's: few classes, self- and semi-supervised models, AutoMix.

Each from a folder of images, without lists, in two steps.
"""
import copy

import numpy as np
import pytest
import torch
from PIL import Image

from mmlit.errors import ConfigError
from mmlit.openmixup.trainer import test as evaluate
from mmlit.openmixup.trainer import train

from . import models
from .test_training import assert_same, state

NORM = dict(mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])
CLASSES = ('a cat', 'b dog', 'c fox')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for split, count in [('train', 3), ('val', 2)]:
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'image {i}.JPG', format='JPEG')
    return root


@pytest.fixture
def config(folders, tmp_path):
    """Writes a config around a model and its training data; returns its path."""

    def config(model: dict, train_data: dict | None = None, size: int = 64, **others):
        pipeline = [dict(type='Resize', size=(size, size)), dict(type='RandomHorizontalFlip')]
        final = [dict(type='ToTensor'), dict(type='Normalize', **NORM)]

        def source(split, **options):
            return dict(type='ImageList', root=str(folders / split), **options)

        supervised = dict(type='ClassificationDataset', data_source=source('train'),
                          pipeline=pipeline, prefetch=True)
        val = dict(supervised, data_source=source('val'), pipeline=[pipeline[0], *final],
                   prefetch=False)
        data = dict(imgs_per_gpu=4, workers_per_gpu=0, val=val, train=supervised)
        if train_data:
            data['train'] = {
                'views': dict(type='MultiViewDataset', num_views=[2], prefetch=True,
                              pipelines=[pipeline],
                              data_source=source('train', return_label=False)),
                'semi': dict(type='SemiSupervisedDataset', data_source_labeled=source('train'),
                             data_source_unlabeled=source('val', return_label=False),
                             pipeline_labeled=pipeline, pipeline_unlabeled=pipeline,
                             pipeline_strong=pipeline, prefetch=True,
                             ret_samples=dict(x_l_2=False, x_ul_2=True)),
            }[train_data]
        settings = dict(
            model=model, data=data, img_norm_cfg=NORM, optimizer=dict(type='AdamW', lr=1e-3),
            optimizer_config=dict(grad_clip=None), lr_config=dict(policy='fixed'),
            checkpoint_config=dict(interval=1), log_config=dict(
                interval=1, hooks=[dict(type='TextLoggerHook')]),
            runner=dict(type='EpochBasedRunner', max_epochs=2), **others)
        path = tmp_path / 'config.py'
        path.write_text('\n'.join(f'{k} = {v!r}' for k, v in settings.items()))
        return str(path)

    return config


def classifier(**options) -> dict:
    head = dict(models.CLS_HEAD, num_classes=len(CLASSES))
    return dict(type='Classification', backbone=models.backbone(), head=head, **options)


def evaluation(save_best: str) -> dict:
    return dict(interval=1, initial=True, save_best=save_best, imgs_per_gpu=4, workers_per_gpu=0,
                eval_param=dict(topk=(1, 5)))


def test_three_classes_in_folders(config, tmp_path):
    """Trained, validated and tested with the usual topk=(1, 5)."""
    path = config(classifier(), evaluation=evaluation('head0_top1'))
    runner = train(path, str(tmp_path / 'work'), seed=0)
    assert runner.epoch == 2 and len(list((tmp_path / 'work').glob('best_head0_top1_*.pth'))) == 1
    scores = evaluate(path, str(tmp_path / 'work/epoch_2.pth'))
    assert set(scores) == {'head0_top1'} and 0 <= scores['head0_top1'] <= 100


def test_a_best_result_that_there_is_not(config, tmp_path):
    with pytest.raises(ConfigError, match="save_best='head0_top5' names no result.*head0_top1"):
        train(config(classifier(), evaluation=evaluation('head0_top5')), str(tmp_path / 'work'),
              seed=0)


def test_validation_without_data_is_refused(config, tmp_path):
    path = config(classifier(), evaluation=evaluation('head0_top1'))
    text = (tmp_path / 'config.py').read_text().replace("'val':", "'extract':")
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(ConfigError, match='no data.val to validate with'):
        train(path, str(tmp_path / 'work'))
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('name, data', [
    ('simsiam', 'views'), ('byol', 'views'), ('moco', 'views'), ('mocov3', 'views'),
    ('fixmatch', 'semi')])
def test_self_and_semi_supervised_trainings(config, tmp_path, name, data):
    hooks = []
    if name in ('byol', 'mocov3', 'fixmatch'):
        hooks = [dict(type='CosineScheduleHook', end_momentum=1.0)]
    model = getattr(models, name)(models.backbone())
    if name == 'moco':
        model['queue_len'] = 8
    path = config(model, data, custom_hooks=hooks)
    runner = train(path, str(tmp_path / 'work'), seed=0,
                   cfg_options={'data.drop_last': True})
    assert runner.epoch == 2 and runner.iter == 4
    weights = state(tmp_path / 'work/epoch_2.pth')['state_dict']
    assert all(v.isfinite().all() for v in weights.values() if v.is_floating_point())


def test_automix_resumes_bit_for_bit(config, tmp_path):
    """Schedules, a teacher that follows, two outputs of the backbone of which the student's first
    is not used."""
    hooks = [dict(type='CustomCosineAnnealingHook', attr_name='mask_loss', attr_base=0.1,
                  min_attr=0., by_epoch=False),
             dict(type='CosineScheduleHook', end_momentum=0.99996, adjust_scope=[0.25, 1.0],
                  warming_up='constant')]
    path = config(models.automix(models.backbone(out_indices=(2, 3))), size=96,
                  custom_hooks=copy.deepcopy(hooks))
    work = tmp_path / 'work'
    train(path, str(work), seed=0)
    whole = state(work / 'epoch_2.pth')
    teacher = [k for k in whole['state_dict'] if k.startswith('backbone_k.')]
    assert teacher and not torch.equal(whole['state_dict'][teacher[0]],
                                       state(work / 'epoch_1.pth')['state_dict'][teacher[0]])
    (work / 'epoch_2.pth').unlink()
    train(path, str(work), resume='auto')
    resumed = state(work / 'epoch_2.pth')
    for part in ('state_dict', 'optimizer'):
        assert_same(resumed[part], whole[part])
