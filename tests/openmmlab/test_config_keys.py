"""Mis-spelt keys of mmengine configs are refused with the nearest name; others pass."""
from pathlib import Path

import pytest
from mmengine.config import Config

from mmlit.config_keys import check_top_level
from mmlit.errors import ConfigError
from mmlit.openmmlab.keys import known_keys
from mmlit.openmmlab.trainer import load_config

from .test_training import ROOT

DEMO = str(ROOT / 'configs/detection/digits/retinanet_litv2-digits.py')


@pytest.mark.parametrize('option, nearest', [
    ('optim_wraper.optimizer.lr', 'optim_wrapper'), ('load_form', 'load_from'),
    ('optim_wrapper.optimiser.lr', 'optim_wrapper.optimizer'),
    ('optim_wrapper.optimizer.lrr', 'optim_wrapper.optimizer.lr'),
    ('train_cfg.max_epoch', 'train_cfg.max_epochs'), ('randomness.sed', 'randomness.seed'),
    ('train_dataloder.batch_size', 'train_dataloader'), ('auto_scale_lr.enabel', 'enable'),
    ('train_dataloader.batchsize', 'train_dataloader.batch_size'),
    ('train_dataloader.dataset.anfile', 'ann_file'), ('val_evaluator.metrc', 'metric'),
    ('model.backbone.out_indicies', 'model.backbone.out_indices'),
    ('model.bbox_head.num_clases', 'num_classes'), ('model.test_cfg.score_th', 'score_thr'),
    ('default_hooks.checkpoint.intervall', 'default_hooks.checkpoint.interval'),
    ('default_hooks.chekpoint.interval', 'default_hooks.checkpoint'),
    ('param_scheduler.0.stat_factor', 'start_factor'),
    ('optim_wrapper.paramwise_cfg.bias_lr_mlt', 'has no')])
def test_misspelt_options_are_refused(option, nearest):
    with pytest.raises(ConfigError, match=nearest) as e:
        load_config(DEMO, {option: 1})
    assert option in str(e.value)


@pytest.mark.parametrize('option, value', [
    ('optim_wrapper.optimizer.lr', 1), ('train_cfg.max_iters', 5), ('load_from', 'x.pth'),
    ('optim_wrapper.paramwise_cfg.custom_keys.norm.lr_mult', 0.1), ('randomness.seed', 1),
    ('optim_wrapper.clip_grad.max_norm', 1), ('train_dataloader.prefetch_factor', 2),
    ('train_dataloader.dataset.metainfo.anything', 1), ('env_cfg.dist_cfg.backend', 'gloo'),
    ('default_hooks.checkpoint.save_best', 'auto'), ('default_hooks.ema_hook.type', 'EMAHook'),
    ('model.test_cfg.nms.iou_threshold', 0.5), ('train_pipeline.0.to_float32', True),
    ('find_unused_parameters', True), ('model.backbone.init_cfg.checkpoint', 'x.pth'),
    ('model.backbone', dict(alpha=0.5)), ('custom_hooks', [dict(type='EmptyCacheHook')])])
def test_options_that_are_known_pass(option, value):
    load_config(DEMO, {option: value})


@pytest.mark.parametrize('line, nearest', [
    ('optim_wraper = dict()', 'optim_wrapper'), ('custom_hook = []', 'custom_hooks'),
    ("load_form = 'x.pth'", 'load_from'), ('param_schedulers = []', 'param_scheduler')])
def test_misspelt_names_in_a_config_are_refused(tmp_path, line, nearest):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {DEMO!r}\n{line}\n')
    with pytest.raises(ConfigError, match=f'did you mean {nearest!r}'):
        load_config(str(path))


def test_variables_of_a_config_pass(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {DEMO!r}\nnum_classes = 10\nmetainfo = dict()\nmax_epochs = 12\n'
                    'models = dict(bbox_head=dict(num_classes=10))\nmodel = models\n'
                    'optim_wrapper2 = dict()\n')
    load_config(str(path))


@pytest.mark.parametrize('name', ['mmdet', 'mmseg', 'mmpretrain'])
def test_configs_of_the_toolkits_pass(name):
    package = pytest.importorskip(name, reason='OneDL has no mmpretrain')
    known = known_keys(name)
    files = sorted(Path(package.__file__).parent.glob('.mim/configs/[!_s]*/*.py'))[::60]
    for path in files:
        check_top_level(Config.fromfile(path, import_custom_modules=False), known)
    assert len(files) > 5
