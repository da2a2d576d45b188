"""Configs without a scope, with classes in place of names, and with one toolkit alone."""
import subprocess
import sys

import pytest
from mmengine.registry import DATASETS

from mmlit.command_line import trainer_for
from mmlit.errors import ConfigError
from mmlit.openmmlab.scopes import find_class
from mmlit.openmmlab.trainer import build_model, load_config

from .test_training import ROOT

ARCH = '''arch = dict(embed_dims=[16, 32, 64, 128], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8],
            mlp_ratio=[4, 4, 4, 4])
'''
SEGMENTOR = ARCH + '''
model = dict(type='EncoderDecoder', backbone=dict(type='mmlit.LITv2', arch=arch),
             data_preprocessor=dict(type='SegDataPreProcessor'),
             decode_head=dict(type='FCNHead', in_channels=128, channels=8, num_classes=2))
'''
CLASSIFIER = ARCH + '''
model = dict(type='ImageClassifier', backbone=dict(type='mmlit.LITv2', arch=arch),
             neck=dict(type='GlobalAveragePooling'),
             head=dict(type='LinearClsHead', num_classes=5, in_channels=128))
'''
LAZY = ARCH + '''
from mmdet.models import FPN, DetDataPreprocessor, RetinaHead, RetinaNet
from mmengine.config import read_base

from mmlit.models import LITv2

with read_base():
    from .base import *

model = dict(type=RetinaNet, data_preprocessor=dict(type=DetDataPreprocessor),
             backbone=dict(type=LITv2, arch=arch, out_indices=(0, 1, 2, 3)),
             neck=dict(type=FPN, in_channels=[16, 32, 64, 128], out_channels=16, num_outs=5),
             bbox_head=dict(type=RetinaHead, num_classes=2, in_channels=16, feat_channels=16,
                            stacked_convs=1))
'''


@pytest.mark.parametrize('scope', ['default_scope = None\n', '', "default_scope = 'mmseg'\n"])
def test_the_scope_is_found_where_a_config_has_none(tmp_path, scope):
    path = tmp_path / 'config.py'
    path.write_text(f'{scope}{SEGMENTOR}optim_wrapper = dict()\n')
    cfg = load_config(str(path))
    assert cfg.default_scope == 'mmseg'
    assert type(build_model(cfg)).__module__.startswith('mmseg')


def test_a_scope_that_is_no_toolkit_is_named(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"default_scope = 'mmdett'\n{SEGMENTOR}")
    with pytest.raises(ConfigError, match="default_scope='mmdett'.*cannot import mmdett.models"):
        load_config(str(path))


def test_classes_in_place_of_names(tmp_path):
    (tmp_path / 'base.py').write_text('default_scope = None\ntest_cfg = dict()\n')
    path = tmp_path / 'config.py'
    path.write_text(LAZY)
    assert trainer_for(str(path))[1] == 'mmengine'
    cfg = load_config(str(path), {'model.backbone.alpha': 0.5})
    assert cfg.default_scope == 'mmdet'
    model = build_model(cfg)
    assert type(model.backbone).__name__ == 'LITv2'
    with pytest.raises(ConfigError, match='out_indices'):
        load_config(str(path), {'model.backbone.out_indicies': (3, )})


def test_types_are_found_in_the_registry_of_their_toolkit():
    for kind in ('CocoDataset', 'mmdet.CocoDataset'):
        assert find_class(DATASETS, kind, 'mmdet').__module__ == 'mmdet.datasets.coco'
    assert find_class(DATASETS, 'CityscapesDataset', 'mmseg').__module__.startswith('mmseg')
    assert find_class(DATASETS, 'NoSuchDataset', 'mmdet') is None


ALONE = '''
import sys
for hidden in {hidden}:
    sys.modules[hidden] = None
from mmlit.command_line import trainer_for
import torch, mmlit.visualization
trainer, generation = trainer_for({path!r})
cfg = trainer.load_config({path!r})
model = trainer.build_model(cfg)
from mmlit.openmmlab.checks import check_config
check_config(cfg)
model.backbone(torch.zeros(1, 3, 64, 64))
print(generation, cfg.default_scope, not any(sys.modules.get(name) for name in {hidden}))
'''


@pytest.mark.parametrize('scope, text', [('mmseg', SEGMENTOR), ('mmpretrain', CLASSIFIER)])
def test_one_toolkit_alone_suffices(tmp_path, scope, text):
    path, hidden = tmp_path / 'config.py', [t for t in ('mmdet', 'mmseg', 'mmpretrain')
                                            if t != scope]
    path.write_text(f'default_scope = {scope!r}\n{text}')
    script = ALONE.format(path=str(path), hidden=hidden)
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith(f'mmengine {scope} True'), done.stderr


@pytest.mark.parametrize('text, needed', [
    ("_base_ = 'mmseg::_base_/default_runtime.py'", 'mmseg'), ("default_scope = 'mmdet'", 'mmdet'),
    ('from mmpretrain.models import ImageClassifier', 'mmpretrain'),
    ('train_dataloader = dict()', 'mmdet or mmseg or mmpretrain')])
def test_missing_toolkits_are_named(tmp_path, monkeypatch, text, needed):
    path = tmp_path / 'config.py'
    path.write_text(f'{text}\nmodel = dict()\n')
    for name in ('mmdet', 'mmseg', 'mmpretrain'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f'needs {needed}, which .* has not: pip install'):
        trainer_for(str(path))
    path.write_text("default_scope = 'mmengine'\nmodel = dict()\n")
    assert trainer_for(str(path))[1] == 'mmengine'
