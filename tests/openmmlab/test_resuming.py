"""Trainings of a tiny model that stop, resume, diverge, or would take no step."""
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch

from mmlit import resuming as shared
from mmlit.checkpoints import read_checkpoint
from mmlit.errors import CheckpointError, ConfigError, DivergedError
from mmlit.openmmlab import resuming
from mmlit.openmmlab.trainer import train
from mmlit.work_dir import lock_work_dir

from ..conftest import GOLDEN_ARCH, free_port

ROOT = Path(__file__).parents[2]
BY_EPOCH = f'''
custom_imports = dict(imports=['mmlit', 'tests.openmmlab.tiny_parts'])
default_scope = 'mmengine'
model = dict(type='TinyModel', backbone=dict(
    type='LITv2', arch={GOLDEN_ARCH}, out_indices=(3, ), drop_path_rate=0.2))
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='TinyDataset'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=3, num_workers=0, dataset=dict(type='TinyDataset'),
                      sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator, val_cfg = dict(type='TinyMetric'), dict(type='ValLoop')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(
    type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='auto'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False)]
'''
BY_ITER = BY_EPOCH
for old, new in [
        ("'EpochBasedTrainLoop', max_epochs=2, val_interval=1",
         "'IterBasedTrainLoop', max_iters=6, val_interval=3"),
        ('interval=1, max_keep', 'by_epoch=False, interval=3, max_keep'),
        ("DefaultSampler', shuffle=True", "InfiniteSampler', shuffle=True")]:
    BY_ITER = BY_ITER.replace(old, new)
EMA = [dict(type='EMAHook', momentum=0.3, update_buffers=True)]
NAN = float('nan')
numbers = count()


@pytest.fixture
def run(tmp_path):
    def run(work='work', text=BY_EPOCH, resume=None, seed=None, **options):
        # mmengine keeps what it logs by the name of the config and the second.
        path = tmp_path / f'config{next(numbers)}.py'
        path.write_text(text)
        return train(str(path), str(tmp_path / work), resume, cfg_options=options, seed=seed)

    return run


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    for module in (resuming, shared):
        monkeypatch.setattr(module, 'print_log', lambda message, logger, level=logging.INFO:
                            lines.append(message))
    return lines


def read(path) -> dict:
    return read_checkpoint(path)


def copy_to(path: Path, folder: Path, change=None) -> Path:
    """A work dir with this checkpoint alone, changed."""
    folder.mkdir()
    checkpoint = read(path)
    if change:
        change(checkpoint)
    torch.save(checkpoint, folder / path.name)
    return folder


def assert_equal(a, b, at=''):
    assert type(a) is type(b), at
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            assert_equal(a[key], b[key], f'{at}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f'{at}[{i}]')
    else:
        assert a == b, at


# Resuming.


@pytest.mark.parametrize('text, first, last', [
    (BY_EPOCH, 'epoch_1.pth', 'epoch_2.pth'), (BY_ITER, 'iter_3.pth', 'iter_6.pth')])
@pytest.mark.parametrize('hooks', [[], EMA])
def test_resumed_without_a_seed_equals_uninterrupted(run, tmp_path, text, first, last, hooks):
    """In every bit: weights, moving average, moments and schedules, with a seed that is drawn."""
    run('whole', text, custom_hooks=hooks)
    copy_to(tmp_path / 'whole' / first, tmp_path / 'again')
    run('again', text, resume='auto', custom_hooks=hooks)
    a, b = (read(tmp_path / name / last) for name in ('whole', 'again'))
    assert a['meta']['seed'] == b['meta']['seed']
    assert ('ema_state_dict' in a) == bool(hooks)
    for key in {'state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'} & a.keys():
        assert_equal(a[key], b[key], key)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """epoch_1.pth and epoch_2.pth of a training."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'trained.py').write_text(BY_EPOCH)
    train(str(folder / 'trained.py'), str(folder / 'work'), seed=3)
    return folder / 'work'


def half(checkpoint):
    moments = checkpoint['optimizer']['state']
    for key in list(moments)[::2]:
        del moments[key]


def first_moment(**changes):
    def change(checkpoint):
        checkpoint['optimizer']['state'][0].update(changes)
    return change


def top(**changes):
    return lambda checkpoint: checkpoint.update(changes)


def meta(**changes):
    return lambda checkpoint: checkpoint['meta'].update(changes)


@pytest.mark.parametrize('change, problem', [
    (lambda c: c.pop('optimizer'), 'holds weights but no state of a training'),
    (lambda c: c.pop('meta'), 'holds weights but no state of a training'),
    (lambda c: c['meta'].pop('iter'), 'holds weights but no state of a training'),
    (meta(epoch=-1), 'meta.epoch is -1, which is no count'),
    (meta(iter=-3), 'meta.iter is -3, which is no count'),
    (meta(iter=1.5), 'meta.iter is 1.5, which is no count'),
    (meta(epoch=10**30), 'meta.epoch is 1000000000000000000000000000000, which is no count'),
    (meta(epoch=7), 'has trained 7 epochs, but train_cfg.max_epochs is 2'),
    (lambda c: c['optimizer']['state'].clear(), 'the moments of its optimizer are missing'),
    (half, r'the moments of \d+ of \d+ weights in its optimizer are missing'),
    (lambda c: c['optimizer']['state'][1].pop('exp_avg'), 'the moments of 1 of'),
    (first_moment(exp_avg=torch.full((16, 3, 4, 4), NAN)), 'exp_avg of weight 0 .* is not finite'),
    (first_moment(exp_avg_sq=torch.zeros(7)), 'exp_avg_sq of weight 0 .* has the shape'),
    (first_moment(step=torch.tensor(-1.)), 'step of weight 0 .* is negative'),
    (lambda c: c['optimizer']['param_groups'].append(c['optimizer']['param_groups'][0]),
     'its optimizer has 2 groups'),
    (lambda c: c['optimizer']['param_groups'][0].update(lr=NAN, initial_lr=NAN),
     'its optimizer has lr=nan'),
    (lambda c: c['optimizer']['param_groups'][0].pop('betas'), 'another optimizer than AdamW'),
    (top(optimizer=dict(state=3)), 'its optimizer has no param_groups and state'),
    (top(param_schedulers=[]), 'it has 0 param_scheduler, the config 1'),
    (top(ema_state_dict={}), 'the checkpoint has a moving average .* the config has none'),
])
def test_state_that_cannot_be_resumed_is_refused(run, trained, tmp_path, change, problem):
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work', change)
    with pytest.raises((CheckpointError, ConfigError), match=problem) as e:
        run(resume='auto')
    assert '\n' not in str(e.value)
    assert not (tmp_path / 'work/epoch_2.pth').exists()


def test_average_that_the_checkpoint_lacks_is_refused(run, trained, tmp_path):
    with pytest.raises(CheckpointError, match='the config has a moving average'):
        run(resume=str(trained / 'epoch_1.pth'), custom_hooks=EMA)


def test_settings_that_are_not_used_are_named(run, trained, tmp_path, warnings):
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work')
    options = {'optim_wrapper.optimizer.lr': 5e-4, 'optim_wrapper.optimizer.weight_decay': 0.3,
               'param_scheduler.0.T_max': 9}
    runner = run(resume='auto', **options)
    (line, ) = warnings
    for part in ('lr=0.001 (config: 0.0005)', 'weight_decay=0.01 (config: 0.3)',
                 'T_max=6 (config: 9)', '--load-from'):
        assert part in line
    assert runner.optim_wrapper.param_groups[0]['weight_decay'] == 0.01


def test_longer_training_goes_on_and_names_the_end_that_is_kept(run, trained, tmp_path, warnings):
    copy_to(trained / 'epoch_2.pth', tmp_path / 'work')
    assert run(resume='auto', **{'train_cfg.max_epochs': 3}).iter == 9
    # By default, a schedule ends with the training.
    (line, ) = warnings
    assert 'not used: param_scheduler[0] end=6 (config: 9). To use' in line


def test_unchanged_training_resumes_in_silence(run, trained, tmp_path, warnings):
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work')
    assert run(resume='auto').iter == 6 and not warnings


def test_seed_that_is_not_used_is_named(run, trained, tmp_path, warnings):
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work')
    assert run(resume='auto', seed=8).seed == 3
    assert warnings == ['the seed of the checkpoint, 3, is kept; 8 is not used']


def test_checkpoint_without_a_seed_resumes_and_says_so(run, trained, tmp_path, warnings):
    def forget(checkpoint):
        checkpoint['meta'] = dict(epoch=1, iter=3)
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work', forget)
    assert run(resume='auto').iter == 6
    assert 'names no seed' in warnings[0]


def test_finished_training_says_so_and_changes_nothing(run, trained, tmp_path):
    folder = copy_to(trained / 'epoch_2.pth', tmp_path / 'work')
    before = (folder / 'epoch_2.pth').read_bytes()
    run(resume='auto')
    assert (folder / 'epoch_2.pth').read_bytes() == before
    logs = ''.join(path.read_text() for path in folder.glob('*/*.log'))
    assert 'is finished: 2 of 2 epochs' in logs


class KeepsImages:
    def __init__(self):
        self.results_cache = []


@pytest.mark.parametrize('nested', [False, True])
def test_transforms_with_a_state_are_named(warnings, nested):
    from .tiny_parts import TinyDataset
    dataset = TinyDataset(pipeline=[object(), [KeepsImages()]])
    if nested:
        dataset = torch.utils.data.ConcatDataset([dataset, dataset])
    resuming.say_stateful_transforms(dataset)
    (line, ) = warnings
    assert line.startswith('KeepsImages of the training pipeline') and 'bit for bit' in line
    resuming.say_stateful_transforms(TinyDataset())
    assert len(warnings) == 1


@pytest.mark.parametrize('name', ['CachedMosaic', 'CachedMixUp'])
def test_cached_transforms_of_mmdet_are_known(warnings, name):
    from mmdet.datasets import transforms

    from .tiny_parts import TinyDataset
    transform = getattr(transforms, name)(img_scale=(32, 32))
    resuming.say_stateful_transforms(TinyDataset(pipeline=[transform]))
    assert warnings[0].startswith(name)


def test_hooks_that_start_anew_are_named(run, trained, tmp_path, warnings):
    copy_to(trained / 'epoch_1.pth', tmp_path / 'work')
    run(resume='auto', custom_hooks=[dict(type='EarlyStoppingHook', monitor='tiny/accuracy',
                                          rule='greater')])
    assert warnings == ['EarlyStoppingHook starts anew: checkpoints do not hold its state']


@pytest.mark.parametrize('spoil', [lambda data: data[:-500], lambda data: b''])
def test_damaged_newest_checkpoint_gives_way_to_the_newest_whole_one(run, trained, tmp_path, spoil):
    work = tmp_path / 'work'
    shutil.copytree(trained, work)
    newest = work / 'epoch_2.pth'
    newest.write_bytes(spoil(newest.read_bytes()))
    said = f'The newest whole checkpoint there is {work}/epoch_1.pth'
    with pytest.raises(CheckpointError, match=said):
        run(resume=str(newest))
    run(resume='auto')
    assert_equal(read(newest)['state_dict'], read(trained / 'epoch_2.pth')['state_dict'])


# Divergence.


@pytest.mark.parametrize('text, names', [
    (BY_EPOCH, {'epoch_1.pth'}), (BY_ITER, {'iter_3.pth'})])
@pytest.mark.parametrize('spoil, at, said', [
    ('loss', 5, r'iteration 5, with the learning rate \S+: .*loss_cls is nan, loss_norm is '),
    ('gradient', 6, r'is not finite at epoch \d, iteration')])
def test_training_that_diverges_stops_and_keeps_what_is_finite(run, tmp_path, text, names, spoil,
                                                               at, said):
    # With the fewest checkpoints, mmengine removes the good one before it writes the next.
    options = {'model.spoil': spoil, 'model.at': at, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    with pytest.raises(DivergedError, match=said) as e:
        run(text=text, custom_hooks=EMA, **options)
    assert '\n' not in str(e.value)
    kept = {path.name: path for path in (tmp_path / 'work').glob('*.pth')}
    assert names == {name for name in kept if not name.startswith('best')}
    assert any(name.startswith('best') for name in kept)
    for path in kept.values():
        for key, value in read(path)['state_dict'].items():
            assert value.isfinite().all(), (path, key)


def test_command_line_ends_with_one_line_and_status_1(tmp_path):
    config = tmp_path / 'diverging.py'
    config.write_text(BY_EPOCH)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', ROOT / 'tools/train.py', config, '--work-dir',
         tmp_path / 'work', '--cfg-options', 'model.spoil=loss', 'model.at=2'],
        capture_output=True, text=True, cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''))
    assert done.returncode == 1
    assert re.search(r'^error: the training diverged at epoch 1, iteration 2', done.stderr, re.M)
    assert 'Traceback' not in done.stderr


def train_two(config: Path, work: Path, *options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', work, *options],
        capture_output=True, text=True, timeout=200, cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable,
                 PYTHONWARNINGS='ignore', PORT=free_port()))


@pytest.mark.slow
@pytest.mark.parametrize('taken', [False, True])
def test_two_processes_end_when_one_diverges_or_the_folder_is_taken(tmp_path, taken):
    config = tmp_path / 'two.py'
    config.write_text(BY_EPOCH)
    with lock_work_dir(tmp_path / 'work') if taken else contextlib.nullcontext():
        done = train_two(config, tmp_path / 'work', '--cfg-options', 'model.spoil=loss',
                         'model.at=3', 'model.rank=1', 'train_dataloader.dataset.length=8')
    assert done.returncode != 0 and '[rank' not in done.stderr, done.stderr
    said = 'error: another training is running' if taken else (
        'error: the training diverged at epoch 2, iteration 3')
    assert said in done.stderr
    kept = [path.name for path in (tmp_path / 'work').glob('epoch_*.pth')]
    assert kept == ([] if taken else ['epoch_1.pth'])


# No step, and the folder.


@pytest.mark.parametrize('text, key, value', [
    (BY_EPOCH, 'max_epochs', -1), (BY_EPOCH, 'max_epochs', 0), (BY_ITER, 'max_iters', 0),
    (BY_EPOCH, 'max_epochs', 1.5)])
def test_training_of_no_steps_is_refused_before_it_writes(run, tmp_path, text, key, value):
    with pytest.raises(ConfigError, match=f'train_cfg.{key}={value}'):
        run(text=text, **{f'train_cfg.{key}': value})
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('text', [BY_EPOCH, BY_ITER])
@pytest.mark.parametrize('options, problem', [
    ({'train_dataloader.batch_size': 9, 'train_dataloader.drop_last': True},
     'has 6 samples and no batch: lower its batch_size'),
    ({'train_dataloader.dataset.length': 0}, 'TinyDataset has no samples')])
def test_training_data_without_a_batch_is_refused(run, text, options, problem):
    if 'no batch' in problem and text is BY_ITER:
        pytest.skip('an InfiniteSampler fills every batch')
    with pytest.raises(ConfigError, match=problem):
        run(text=text, **options)


def test_second_training_in_a_folder_is_refused(run, tmp_path):
    with lock_work_dir(tmp_path / 'work'), pytest.raises(ConfigError, match='another training'):
        run()
    assert run().epoch == 2
