"""Sharded training of a detector through mmengine's FlexibleRunner, by the command line."""
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from torch.distributed.fsdp import FullyShardedDataParallel

import mmlit
from mmlit.checkpoints import read_checkpoint
from mmlit.distributed import process_group
from mmlit.errors import ConfigError
from mmlit.openmmlab.fsdp import prepare_fsdp, wrap_blocks
from mmlit.openmmlab.trainer import train

from ..conftest import GOLDEN_ARCH, free_port, needs_torch
from .test_training import ROOT, config, finish, metrics, scenes, start  # noqa: F401, fixtures

pytestmark = needs_torch((2, 6), 'mmlit refuses FSDP')

# The hook counts what a process holds.
FSDP = '''
custom_imports = dict(imports=['mmlit', 'count_shard'])
custom_hooks = [dict(type='CountShardHook')]
runner_type = 'FlexibleRunner'
strategy = dict(type='FSDPStrategy', model_wrapper=dict(
    type='MMFullyShardedDataParallel', auto_wrap_policy='mmlit.openmmlab.fsdp.wrap_blocks'))
'''
HOOK = '''
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class CountShardHook(Hook):
    def before_train(self, runner):
        model = runner.model
        parts = [m for m in model.fsdp_modules(model)]
        held = sum(p.numel() for p in model.parameters())
        print(f'SHARD {held} of a whole in {len(parts)} units', flush=True)
'''


@pytest.fixture
def task():
    return 'detection'


@pytest.fixture
def sharded(config, tmp_path, monkeypatch):  # noqa: F811
    """The same training as `config`'s, sharded."""
    (tmp_path / 'count_shard.py').write_text(HOOK)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(
        filter(None, [str(tmp_path), os.environ.get('PYTHONPATH')])))
    config.write_text(config.read_text().replace('SyncBN', 'BN'))  # SyncBN needs CUDA
    path = tmp_path / 'sharded.py'
    path.write_text(config.read_text() + FSDP)
    return path


def losses(out: str) -> list[str]:
    return re.findall(r'Epoch\(train\).* loss: ([\d.]+)', out)


def check_equal(a, b):
    a, b = (read_checkpoint(path) for path in (a, b))
    for name, value in a['state_dict'].items():
        assert torch.equal(value, b['state_dict'][name]), name
    names = next(x for x in (a, b) if 0 not in x['optimizer']['state'])
    names = names['optimizer']['param_groups'][0]['params']
    for i, name in enumerate(names):
        for x in (a, b):  # FSDP's optimizer names what others number
            x['now'] = x['optimizer']['state'].get(name) or x['optimizer']['state'][i]
        for key, value in a['now'].items():
            assert torch.equal(value, b['now'][key]), (name, key)


@pytest.mark.slow
def test_two_processes_equal_ddp_bit_for_bit(config, sharded, tmp_path):  # noqa: F811
    """Weights and moments after nine steps; and those of a training resumed after six."""
    out = finish(start(sharded, tmp_path / 'fsdp', processes=2))
    plain = finish(start(config, tmp_path / 'ddp', processes=2))
    assert len(losses(out)) == 9 and losses(out) == losses(plain)
    assert metrics(out) == metrics(plain)
    check_equal(tmp_path / 'fsdp/epoch_3.pth', tmp_path / 'ddp/epoch_3.pth')

    weights = read_checkpoint(tmp_path / 'ddp/epoch_3.pth')['state_dict']
    whole = sum(v.numel() for k, v in weights.items() if 'running' not in k and 'num_b' not in k)
    shards = [tuple(map(int, found)) for found in
              re.findall(r'SHARD (\d+) of a whole in (\d+) units', out)]
    assert len(shards) == 2
    for held, units in shards:
        assert held == pytest.approx(whole / 2, rel=0.01)
        assert units == sum(GOLDEN_ARCH['depths']) + 1

    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'fsdp/epoch_2.pth', tmp_path / 'resumed')
    resumed = finish(start(sharded, tmp_path / 'resumed', '--resume', processes=2))
    assert 'resumed epoch: 2, iter: 6' in resumed
    check_equal(tmp_path / 'resumed/epoch_3.pth', tmp_path / 'ddp/epoch_3.pth')


@pytest.mark.gpu
@pytest.mark.slow
def test_trains_on_every_gpu(sharded, tmp_path):
    command = [ROOT / 'tools/dist_train.sh', sharded, torch.cuda.device_count(), '--work-dir',
               tmp_path / 'gpu', '--seed', 3]
    done = subprocess.run(
        list(map(str, command)), text=True, capture_output=True,
        env=dict(os.environ, PYTHON=sys.executable, PORT=free_port()))
    out = done.stdout + done.stderr
    assert done.returncode == 0, out[-3000:]
    assert len(losses(out)) >= 3 and all(math.isfinite(float(x)) for x in losses(out))
    weights = read_checkpoint(tmp_path / 'gpu/epoch_3.pth')['state_dict']
    assert all(v.isfinite().all() for v in weights.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason='of a process group without CUDA')
def test_each_block_is_a_unit():
    with process_group('none', alone=True):
        model = FullyShardedDataParallel(
            mmlit.LITv2(GOLDEN_ARCH), auto_wrap_policy=wrap_blocks, device_id=torch.device('cpu'),
            use_orig_params=True)
        units = [m.module for m in model.fsdp_modules(model)]
        assert [type(u).__name__ for u in units] == ['LITv2'] + ['Block'] * 5
        (out, ) = model(torch.randn(2, 3, 64, 96))
        out.square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('changes, problem', [
    (dict(state_dict_cfg='local'), 'strategy.state_dict_cfg'), (dict(), 'load_from')])
def test_what_cannot_be_sharded(changes, problem):
    cfg = Config(dict(strategy=dict(type='FSDPStrategy', **changes), resume=False,
                      load_from='some.pth'))
    with pytest.raises(ConfigError, match=problem):
        prepare_fsdp(cfg)


@pytest.mark.parametrize('options, problem', [
    (dict(runner_type='FlexibleRunner'), 'need each other'),
    (dict(strategy=dict(type='FSDPStrategy')), 'need each other'),
    (dict(runner_type='FlexibleRunner', strategy=dict(type='DeepSpeedStrategy')), 'expected FSDP'),
])
def test_strategies_that_cannot_run(config, tmp_path, options, problem):  # noqa: F811
    with pytest.raises(ConfigError, match=problem):
        train(str(config), str(tmp_path / 'work'), cfg_options=options)
    assert not (tmp_path / 'work').exists()
