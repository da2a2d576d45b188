"""Trainings of openmixup that are resumed, or that diverge: nothing is lost, nothing silent.

In this process, on sixteen digits for each epoch.
"""
import copy
import logging
import re
import shutil

import pytest
import torch

from mmlit.errors import CheckpointError, ConfigError, DivergedError, MMLitError
from mmlit.openmixup.trainer import train

from .conftest import DEMO
from .test_bad_input import GOLDEN_OPTIONS
from .test_training import assert_same, state

EMA = [dict(type='EMAHook', momentum=0.9)]


@pytest.fixture(scope='module')
def options(data_options, digits):
    """Two steps for each epoch, all of the model drawn and mixed at random."""
    lines = (digits / 'meta/train_128.txt').read_text().splitlines(keepends=True)
    (digits / 'meta/train_32.txt').write_text(''.join(lines[::4]))
    found = dict(o.split('=', 1) for o in [*GOLDEN_OPTIONS, *data_options])
    return {**{k: eval(v) if v[0] in '[0123456789' else v for k, v in found.items()},
            'data.train.data_source.list_file': str(digits / 'meta/train_32.txt'),
            'runner.max_epochs': 3, 'log_config.interval': 1,
            'checkpoint_config.max_keep_ckpts': -1}


@pytest.fixture
def run(options, tmp_path):

    def run(work='work', resume=None, seed=3, **others):
        return train(str(DEMO), str(tmp_path / work), resume and str(resume), seed=seed,
                     cfg_options={**options, **others})

    return run


@pytest.fixture
def resumed(run, tmp_path):
    """Resumes a copy of a work dir's checkpoint of an epoch, perhaps changed, as if killed then."""

    def resumed(work, epoch=1, change=None, name='resumed', **others):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint = state(tmp_path / work / f'epoch_{epoch}.pth')
        for path in (tmp_path / work).glob('best_*.pth'):
            shutil.copy(path, folder)
        if change:
            change(checkpoint)
        torch.save(checkpoint, folder / f'epoch_{epoch}.pth')
        return run(name, 'auto', **others)

    return resumed


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    found = []

    def emit(self, record):
        found.append(record.getMessage())

    monkeypatch.setattr(logging.StreamHandler, 'emit', emit)
    return found


def assert_equal_ends(tmp_path, a='work', b='resumed', epoch=3):
    a, b = (state(tmp_path / folder / f'epoch_{epoch}.pth') for folder in (a, b))
    for part in ('state_dict', 'optimizer'):
        assert_same(a[part], b[part])
    for key in ('hook_states', 'model_attributes', 'seed'):
        assert_same(a['meta'][key], b['meta'][key])


# 1. moving averages and other hooks

@pytest.mark.parametrize('hooks', [
    EMA,
    [dict(EMA[0], warmup='linear', warmup_iters=3, update_interval=2, full_params_ema=False)],
    [dict(EMA[0], priority='VERY_LOW')],
    [dict(type='SwitchEMAHook', momentum=0.9, switch_params=True, switch_start=0,
          switch_interval=2)],
], ids=['EMA', 'warm-up', 'late', 'SwitchEMA'])
def test_moving_averages_resume_bit_for_bit(run, resumed, tmp_path, hooks):
    run(custom_hooks=copy.deepcopy(hooks))
    whole = state(tmp_path / 'work/epoch_1.pth')['state_dict']
    name = 'backbone.stages.3.blocks.0.ffn.fc1.weight'
    average = whole[f'ema_{name.replace(".", "_")}']
    assert not torch.equal(whole[name], average)
    resumed('work', custom_hooks=copy.deepcopy(hooks))
    assert_equal_ends(tmp_path)


def test_checkpoints_hold_the_averaged_weights_that_were_validated(run, tmp_path):
    """Best and last checkpoint: by openmixup's order, the weights under their own names are the
    averages while validated and saved."""
    runner = run(custom_hooks=copy.deepcopy(EMA), **{'evaluation.save_best': 'head0_top1'})
    model = runner.model.module
    (best, ) = (tmp_path / 'work').glob('best_*.pth')
    epoch = int(re.search(r'epoch_(\d)', best.name)[1])
    last = state(tmp_path / f'work/epoch_{epoch}.pth')['state_dict']
    assert_same(dict(state(best)['state_dict']), dict(last))
    # After the run, the model is as it was saved.
    assert_same(dict(model.state_dict()), dict(state(tmp_path / 'work/epoch_3.pth')['state_dict']))


def test_averages_that_only_one_side_has_are_refused(run, resumed, tmp_path):
    run('with', custom_hooks=copy.deepcopy(EMA), **{'runner.max_epochs': 1})
    run('without', **{'runner.max_epochs': 1})
    with pytest.raises(CheckpointError, match='the config has none|config has a moving|checkpoint '
                       'has a moving average .EMAHook|has a moving average'):
        resumed('with', name='a')
    with pytest.raises(CheckpointError, match='the config has a moving average'):
        resumed('without', name='b', custom_hooks=copy.deepcopy(EMA))
    assert sorted(p.name for p in (tmp_path / 'b').iterdir())[-1] == 'epoch_1.pth'


def test_attributes_that_hooks_set_come_back(run, resumed, tmp_path):
    """Momentum of a teacher that is updated every third step, from a schedule."""
    hooks = [dict(type='CosineScheduleHook', end_momentum=0.99996, update_interval=3)]
    model = {'model.type': 'MixUpClassification'}

    def prepare(runner_options):
        return {**runner_options, 'custom_hooks': copy.deepcopy(hooks)}

    from mmlit.openmixup import trainer
    build = trainer.build_model

    def with_momentum(cfg):
        built = build(cfg)
        built.momentum = built.base_momentum = 0.9
        return built

    trainer.build_model = with_momentum
    try:
        run(**prepare(model))
        attributes = state(tmp_path / 'work/epoch_2.pth')['meta']['model_attributes']
        assert attributes['']['momentum'] > 0.9
        resumed('work', epoch=2, **prepare(model))
    finally:
        trainer.build_model = build
    assert_equal_ends(tmp_path)


def test_hooks_that_checkpoints_cannot_hold_are_named(run, resumed):
    run(**{'runner.max_epochs': 1})

    def change(checkpoint):
        checkpoint['meta']['not_saved'] = ['DeepClusterHook']

    with pytest.raises(CheckpointError, match='do not hold what DeepClusterHook had become'):
        resumed('work', change=change)


# 2. seed, settings, moments

def test_the_seed_of_the_checkpoint_is_kept(run, resumed, tmp_path, lines):
    run()
    resumed('work', seed=None)
    assert_equal_ends(tmp_path)
    resumed('work', name='other', seed=4)
    assert_equal_ends(tmp_path, b='other')
    assert 'the seed of the checkpoint, 3, is kept; 4 is not used' in lines


def test_settings_that_are_not_used_are_named(run, resumed, lines):
    run(**{'runner.max_epochs': 1})
    lines.clear()
    runner = resumed('work', **{'optimizer.weight_decay': 0.3, 'optimizer.lr': 5e-4})
    (line, ) = {x for x in lines if 'settings of the checkpoint are kept' in x}
    assert 'weight_decay=0.05 (config: 0.3)' in line and 'lr=0.001 (config: 0.0005)' in line
    assert '--load-from' in line
    assert {g['weight_decay'] for g in runner.optimizer.param_groups} == {0.05, 0.0}


def test_unchanged_trainings_resume_without_a_warning(run, resumed, lines):
    run(**{'runner.max_epochs': 1})
    lines.clear()
    assert resumed('work').epoch == 3
    assert not [x for x in lines if 'kept' in x]


def _first_moments(checkpoint):
    return next(iter(checkpoint['optimizer']['state'].values()))


BROKEN = {
    'no moments': (lambda c: c['optimizer']['state'].clear(), 'its optimizer are missing'),
    'half of the moments': (
        lambda c: [c['optimizer']['state'].pop(k) for k in list(c['optimizer']['state'])[::2]],
        'weights in its optimizer are missing'),
    'nan': (lambda c: _first_moments(c)['exp_avg'].fill_(float('nan')), 'is not finite'),
    'negative': (lambda c: _first_moments(c)['exp_avg_sq'].fill_(-1.), 'is negative'),
    'shape': (lambda c: _first_moments(c).update(exp_avg=torch.zeros(2)), 'has the shape'),
    'no optimizer': (lambda c: c.pop('optimizer'), 'no state of a training'),
    'negative epoch': (lambda c: c['meta'].update(epoch=-1), 'meta.epoch is -1'),
    'half an epoch': (lambda c: c['meta'].update(epoch=0.5), 'meta.epoch is 0.5'),
    'middle of an epoch': (lambda c: c['meta'].update(iter=1), 'in the middle of epoch 1'),
    'too far': (lambda c: c['meta'].update(epoch=9, iter=18), 'nothing left to train'),
    'groups': (lambda c: c['optimizer']['param_groups'].pop(), 'groups'),
}


@pytest.fixture(scope='module')
def one_epoch(options, tmp_path_factory):
    work = tmp_path_factory.mktemp('one_epoch')
    train(str(DEMO), str(work), seed=3, cfg_options={**options, 'runner.max_epochs': 1})
    return work / 'epoch_1.pth'


@pytest.mark.parametrize('kind', BROKEN)
def test_trainings_that_cannot_go_on_are_refused(run, one_epoch, tmp_path, kind):
    change, message = BROKEN[kind]
    checkpoint = state(one_epoch)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'broken.pth')
    with pytest.raises(MMLitError, match=message):
        run(resume=tmp_path / 'broken.pth')
    assert not (tmp_path / 'work').exists()


def test_another_optimizer_is_refused(run, one_epoch, tmp_path):
    with pytest.raises(CheckpointError, match='another optimizer than SGD'):
        run(resume=one_epoch, **{'optimizer.type': 'SGD'})


def test_a_truncated_newest_checkpoint_is_passed_over(run, tmp_path, lines):
    run()
    newest = tmp_path / 'work/epoch_3.pth'
    newest.write_bytes(newest.read_bytes()[:5000])
    run(resume='auto')
    assert any('epoch_2.pth is the newest whole checkpoint' in x for x in lines)
    assert any('resumed after epoch 2' in x for x in lines)


def test_a_second_training_in_a_work_dir_is_refused(run, tmp_path):
    from mmlit.work_dir import lock_work_dir
    with lock_work_dir(tmp_path / 'work'), pytest.raises(ConfigError, match='another training'):
        run()


# 3. diverging, and no steps

@pytest.mark.parametrize('mode', ['mixup', 'vanilla'])
def test_a_loss_that_is_nan_stops_the_training(run, tmp_path, mode):
    with pytest.raises(DivergedError) as e:
        run(**{'optimizer.type': 'SGD', 'optimizer.lr': 1e30, 'lr_config.warmup': None,
               'optimizer_config.grad_clip': None, 'model.mix_mode': [mode], 'model.alpha': [1.0]})
    assert re.search(r'diverged at epoch 1, iteration 2 of 2, with the learning rate [0-9.]*e\+29: '
                     'loss is nan', str(e.value))
    assert '\n' not in str(e.value)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_finite_checkpoints_are_not_replaced(run, resumed, tmp_path):
    """Weights become nan in the last step of an epoch, after its loss."""
    run(**{'runner.max_epochs': 1, 'checkpoint_config.max_keep_ckpts': 1})

    def change(checkpoint):
        for group in checkpoint['optimizer']['param_groups']:
            group['initial_lr'] = group['lr'] = 1e38

    with pytest.raises(DivergedError, match='--resume goes on from the last one'):
        resumed('work', change=change, **{'checkpoint_config.max_keep_ckpts': 1})
    kept = [p.name for p in (tmp_path / 'resumed').glob('epoch_*.pth')]
    assert kept == ['epoch_1.pth']
    for value in state(tmp_path / 'resumed/epoch_1.pth')['state_dict'].values():
        assert not value.is_floating_point() or value.isfinite().all()


def test_weights_are_checked_before_they_are_saved(run, tmp_path):
    from mmcv.runner import HOOKS, Hook

    class Spoil(Hook):

        def __init__(self, **kwargs):
            pass

        def after_train_epoch(self, runner):
            if runner.epoch == 1:
                next(runner.model.parameters()).data.fill_(float('inf'))

    from openmixup.core.hooks import HOOKS as THEIRS
    assert HOOKS is not THEIRS
    THEIRS.module_dict['Spoil'] = Spoil
    try:
        with pytest.raises(DivergedError, match='is not finite'):
            run(custom_hooks=[dict(type='Spoil')])
    finally:
        del THEIRS.module_dict['Spoil']
    assert [p.name for p in (tmp_path / 'work').glob('epoch_*.pth')] == ['epoch_1.pth']


@pytest.mark.parametrize('setting, message', [
    ({'runner.max_epochs': -1}, 'max_epochs=-1'), ({'runner.max_epochs': 0}, 'max_epochs=0'),
    ({'runner.max_epochs': 1.5}, 'max_epochs=1.5'),
    ({'data.drop_last': True, 'data.imgs_per_gpu': 64}, '32 images and no batch of 64')])
def test_a_training_of_no_steps_is_refused(run, tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        run(**setting)
    assert not (tmp_path / 'work').exists()
