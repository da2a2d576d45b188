"""Small trainings of mmengine configs through the command line, on the CPU."""
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmlit.checkpoints import read_checkpoint
from mmlit.openmmlab.runner import ShareBuffersHook

from ..conftest import GOLDEN_ARCH, free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BACKBONE = f'''dict(_delete_=True, type='LITv2', arch={GOLDEN_ARCH}, out_indices=(0, 1, 2, 3),
    norm_indices=NORMS, drop_path_rate=0.2)'''
# Everything random that a training can have: order, flips, dropped paths.
DETECTION = '''
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=BACKBONE,
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32, norm_cfg=dict(type='SyncBN')),
    bbox_head=dict(num_classes=10, in_channels=32, feat_channels=32, stacked_convs=1))
dataset = dict(type='CocoDataset', metainfo=dict(classes=tuple('0123456789')), data_root='ROOT')
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(224, 160))]
train_dataloader = dict(
    batch_size=4, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'), pipeline=[
        *load, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')], **dataset))
val_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'), test_mode=True,
                 pipeline=[*load, dict(type='PackDetInputs', meta_keys=(
                     'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))], **dataset))
val_evaluator = dict(type='CocoMetric', ann_file='ROOT/annotations/val.json', metric='bbox')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
default_hooks = dict(logger=dict(interval=1),
                     checkpoint=dict(interval=1, max_keep_ckpts=1, save_best='auto'))
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
'''
SEGMENTATION = '''
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
model = dict(
    pretrained=None, data_preprocessor=dict(size=(160, 224)), backbone=BACKBONE,
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    decode_head=dict(num_classes=11, in_channels=[32] * 4, channels=32))
dataset = dict(
    type='BaseSegDataset', data_root='ROOT', img_suffix='.jpg', seg_map_suffix='.png',
    metainfo=dict(classes=tuple('0123456789') + ('background', ), palette=[[i] * 3
                                                                           for i in range(11)]))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_dataloader = dict(
    batch_size=4, num_workers=1, persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path='train', seg_map_path='seg_maps/train'), pipeline=[
        *load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')], **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix=dict(img_path='val', seg_map_path='seg_maps/val'),
                 pipeline=[*load, dict(type='PackSegInputs')], **dataset))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(type='IterBasedTrainLoop', max_iters=18, val_interval=6)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(
    type='CheckpointHook', by_epoch=False, interval=6, max_keep_ckpts=1))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
'''
LOOPS = '''
test_dataloader, test_evaluator = val_dataloader, val_evaluator
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
'''
TASKS = {  # config, norms, last checkpoint, and the line and checkpoint at which to kill
    'detection': (DETECTION, (1, 2, 3), 'epoch_3.pth', r'Epoch\(train\) +\[2\]\[3/6\]',
                  'epoch_1.pth'),
    'segmentation': (SEGMENTATION, (0, 1, 2, 3), 'iter_18.pth', r'Iter\(train\) +\[ *9/18\]',
                     'iter_6.pth'),
}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    pytest.importorskip('sklearn')
    out = tmp_path_factory.mktemp('data') / 'scenes'
    command = [sys.executable, ROOT / 'tools/dataset_converters/digit_scenes.py', '--out', out,
               '--train', 24, '--val', 8]
    subprocess.run(list(map(str, command)), check=True)
    return out


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def config(task, scenes, tmp_path):
    text, norms, *_ = TASKS[task]
    text = (text + LOOPS).replace('BACKBONE', BACKBONE).replace('NORMS', str(norms))
    # mmengine keeps scopes by the config's name and the second: two tasks need two names.
    path = tmp_path / f'{task}.py'
    path.write_text(text.replace('ROOT', str(scenes)))
    return path


def start(config, work_dir, *args, processes: int = 1) -> subprocess.Popen:
    command = [sys.executable, ROOT / 'tools/train.py', config]
    if processes > 1:
        command = [ROOT / 'tools/dist_train.sh', config, processes]
    command += ['--work-dir', work_dir, '--seed', 3, *args]
    environment = dict(os.environ, PYTHON=sys.executable, PYTHONWARNINGS='ignore',
                       CUDA_VISIBLE_DEVICES='', PORT=free_port())
    return subprocess.Popen([str(c) for c in command], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    return out


def metrics(out: str) -> list[str]:
    return re.findall(r'(?:bbox_mAP|mIoU): [\d.-]+', out)


def test_killed_and_resumed(task, config, tmp_path):
    """SIGKILL between two checkpoints; resumed, the run ends bit for bit as if never killed."""
    *_, last, line_to_kill, kept = TASKS[task]
    whole = finish(start(config, tmp_path / 'whole'))
    process = start(config, tmp_path / 'killed')
    for line in process.stdout:
        if re.search(line_to_kill, line):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert [p.name for p in (tmp_path / 'killed').glob('[ei]*_*.pth')] == [kept]

    resumed = finish(start(config, tmp_path / 'killed', '--resume'))
    assert 'resumed epoch' in resumed
    assert metrics(resumed) and metrics(whole)[-len(metrics(resumed)):] == metrics(resumed)
    a, b = (read_checkpoint(tmp_path / d / last) for d in ('whole', 'killed'))
    for name, value in a['state_dict'].items():
        assert torch.equal(value, b['state_dict'][name]), name


def test_two_processes(task, config, tmp_path):
    *_, last, _, _ = TASKS[task]
    out = finish(start(config, tmp_path, processes=2))
    assert 'SyncBatchNorm layers become BatchNorm' in out
    assert metrics(out) and (tmp_path / last).is_file()
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', ROOT / 'tools/test.py', config, tmp_path / last],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert metrics(done.stdout)[0] == metrics(out)[-1]


def share_buffers(rank: int, store: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    norm = torch.nn.BatchNorm2d(3)
    for buffer in norm.buffers():
        buffer.fill_(rank + 5)
    ShareBuffersHook().before_val_epoch(SimpleNamespace(model=norm))
    torch.distributed.barrier()
    # With the group still there, an ending process may die of gloo's threads.
    torch.distributed.destroy_process_group()
    assert all((buffer == 5).all() for buffer in norm.buffers())


def test_validation_has_the_buffers_that_are_saved(tmp_path):
    torch.multiprocessing.spawn(share_buffers, (f'file://{tmp_path}/store', ), nprocs=2)


@pytest.mark.parametrize('task', ['detection'], indirect=True)
def test_amp_and_scaled_learning_rate(config, tmp_path):
    out = finish(start(config, tmp_path, '--amp', '--auto-scale-lr', '--cfg-options',
                       'auto_scale_lr.base_batch_size=8', 'train_cfg.max_epochs=1'))
    assert 'mixed precision: mmengine has it on CUDA only; training in float32' in out
    assert re.search(r'lr: 5.0000e-04', out)


@pytest.mark.parametrize('task', ['detection'], indirect=True)
def test_errors(config, tmp_path, monkeypatch):
    def fails(script, *args):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        with pytest.raises(SystemExit) as e:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        assert str(e.value).startswith('error: ') and '\n' not in str(e.value)
        return str(e.value)

    assert 'does not exist' in fails('test.py', config, tmp_path / 'none.pth')
    assert 'base_batch_size' in fails('train.py', config, '--auto-scale-lr')
    (tmp_path / 'broken.py').write_text("_base_ = 'mmdet::none.py'\n")
    assert 'cannot load the config' in fails('train.py', tmp_path / 'broken.py')
