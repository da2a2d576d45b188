"""Real, small trainings through the command line: resumed, killed, distributed.

They run on the CPU everywhere: only there are two runs the same bit for bit.
"""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmlit.openmixup.trainer import train

from ..conftest import free_port
from .conftest import DEMO, ROOT

pytestmark = pytest.mark.slow
EPOCHS = 3


def start(options, work_dir, *args, processes: int = 1, seed: int = 3,
          cuda: bool = False) -> subprocess.Popen:
    """Starts tools/train.py (or dist_train.sh) on the demo's config in a process of its own."""
    command = [sys.executable, ROOT / 'tools/train.py', DEMO]
    if processes > 1:
        command = [ROOT / 'tools/dist_train.sh', DEMO, processes]
    command += ['--work-dir', work_dir, '--seed', seed, *args, '--cfg-options', *options]
    environment = dict(os.environ, PYTHON=sys.executable, PYTHONWARNINGS='ignore',
                       PORT=free_port())
    if not cuda:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    return subprocess.Popen([str(c) for c in command], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    return out


def state(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same(a, b):
    """Two checkpoints or parts of them, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            assert_same(a[k], b[k])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.fixture(scope='module')
def options(data_options):
    return [f'runner.max_epochs={EPOCHS}', 'log_config.interval=4', *data_options]


@pytest.fixture(scope='module')
def uninterrupted(options, tmp_path_factory):
    """Work dir and output of a run from beginning to end."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    return work_dir, finish(start(options, work_dir))


def test_log_best_checkpoint_and_test(uninterrupted, options, tmp_path):
    work_dir, out = uninterrupted
    line = next(x for x in out.splitlines() if 'Epoch [2][4/8]' in x)
    for shown in ('lr: ', 'eta: ', 'time: ', 'memory_mb: ', 'loss: '):
        assert shown in line
    assert re.search(r'1 process\(es\) on \w+, seed 3', out) and 'precision: float32' in out
    assert re.search(r'optimizer AdamW: .*weights with lr 1e-05 and weight decay 0', out)

    log = [json.loads(x) for x in next(work_dir.glob('*.log.json')).read_text().splitlines()]
    scores = [x['head0_top1'] for x in log if x.get('mode') == 'val']
    assert len(scores) == EPOCHS and all(0 <= s <= 100 for s in scores)
    (best, ) = work_dir.glob('best_*.pth')
    assert best.name == f'best_head0_top1_epoch_{scores.index(max(scores)) + 1}.pth'
    assert state(best)['meta']['mmlit']['alpha'] == 0.9  # what its weights mean
    assert [p.name for p in work_dir.glob('epoch_*.pth')] == [f'epoch_{EPOCHS}.pth']
    assert (work_dir / 'latest.pth').resolve().name == f'epoch_{EPOCHS}.pth'
    assert not list(work_dir.glob('.*.tmp*'))
    assert (work_dir / DEMO.name).is_file()

    result = tmp_path / 'result.json'
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/test.py', DEMO, best, '--out', result, '--cfg-options',
         *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^head0_top1: [\d.]+$', done.stdout, re.M)
    assert json.loads(result.read_text())['head0_top1'] == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize('epoch', [1, 2])
def test_killed_and_resumed(uninterrupted, options, tmp_path, epoch):
    """SIGKILL in the middle of an epoch; resumed, the run ends bit for bit as if never killed.

    The second epoch lies past the middle of the run, where openmixup's own hook loses the loss.
    """
    work_dir = tmp_path / 'killed'
    process = start(options, work_dir)
    for line in process.stdout:
        if f'Epoch [{epoch + 1}][4/8]' in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert [p.name for p in work_dir.glob('epoch_*.pth')] == [f'epoch_{epoch}.pth']

    out = finish(start(options, work_dir, '--resume'))
    assert f'resumed after epoch {epoch}, iter {8 * epoch}' in out
    whole = state(uninterrupted[0] / f'epoch_{EPOCHS}.pth')
    resumed = state(work_dir / f'epoch_{EPOCHS}.pth')
    for part in ('state_dict', 'optimizer'):
        assert_same(resumed[part], whole[part])
    hook_messages = [c['meta']['hook_msgs'] for c in (resumed, whole)]
    assert hook_messages[0]['best_score'] == hook_messages[1]['best_score']
    assert ([p.name for p in work_dir.glob('best_*.pth')]
            == [p.name for p in uninterrupted[0].glob('best_*.pth')])


def test_killed_while_writing(options, tmp_path, monkeypatch):
    """A write cut short leaves the previous checkpoint whole and the new name absent."""
    import mmcv.runner.epoch_based_runner as module
    save = module.save_checkpoint

    def half(model, path, **kwargs):
        save(model, path, **kwargs)
        if '.epoch_2.' in path:  # the name before the final one
            os.truncate(path, os.path.getsize(path) // 2)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, 'save_checkpoint', half)
    overrides = dict(o.split('=', 1) for o in options)
    overrides = {k: int(v) if v.isdigit() else v for k, v in overrides.items()}
    with pytest.raises(KeyboardInterrupt):
        train(str(DEMO), str(tmp_path), cfg_options=overrides, seed=3)
    assert [p.name for p in tmp_path.glob('epoch_*.pth')] == ['epoch_1.pth']
    assert state(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1

    monkeypatch.setattr(module, 'save_checkpoint', save)
    assert train(str(DEMO), str(tmp_path), 'auto', cfg_options=overrides, seed=3).epoch == EPOCHS


def test_two_processes_equal_one_with_twice_the_batch(options, tmp_path):
    """After 24 steps, to 1e-5 of each tensor's largest weight (float32, SGD: only sums are taken
    in another order; AdamW would magnify that where a gradient is nearly zero)."""
    options = [
        *options, 'model.backbone.norm_eval=True', 'model.backbone.drop_path_rate=0.',
        "model.mix_mode=['vanilla']", 'model.alpha=[1.0]', 'data.train.pipeline.1.padding=0',
        'optimizer.type=SGD', 'optimizer.lr=0.05'
    ]
    # Gradients of offsets jump where a position crosses a pixel: with this seed, none comes so near
    # to one that rounding decides on which side it lies.
    finish(start([*options, 'data.imgs_per_gpu=16'], tmp_path / 'one', seed=5))
    finish(start([*options, 'data.imgs_per_gpu=8'], tmp_path / 'two', processes=2, seed=5))
    one, two = (state(tmp_path / d / f'epoch_{EPOCHS}.pth') for d in ('one', 'two'))
    assert one['meta']['iter'] == two['meta']['iter'] == 24
    worst = 0
    for name, a in one['state_dict'].items():
        difference = (a - two['state_dict'][name]).abs().max() / a.abs().max().clamp(min=1e-3)
        worst = max(worst, difference.item())
    print(f'largest relative difference: {worst:.1e}')
    assert worst < 1e-5


def test_two_processes_train_the_demo_as_it_is(options, tmp_path):
    out = finish(start(options, tmp_path, processes=2))
    assert '2 process(es)' in out and 'head0_top1' in out
    assert out.count(f'Saving checkpoint at {EPOCHS} epochs') == 1
    checkpoint = tmp_path / f'epoch_{EPOCHS}.pth'
    environment = dict(os.environ, PYTHON=sys.executable, PORT=free_port(), CUDA_VISIBLE_DEVICES='')
    command = [ROOT / 'tools/dist_test.sh', DEMO, checkpoint, '2', '--cfg-options', *options]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (score, ) = re.findall(r'^head0_top1: ([\d.]+)$', done.stdout, re.M)
    last = re.findall(r'Epoch\(val\) .*head0_top1: ([\d.]+)', out)[-1]
    assert float(score) == pytest.approx(float(last), abs=0.01)


def test_mixed_precision_says_what_it_is(options, tmp_path):
    out = finish(start([*options, 'use_fp16=True', 'runner.max_epochs=1'], tmp_path))
    (said, ) = re.findall(r'precision: (.*)', out)
    assert said.startswith(('bfloat16', 'float32 (this CPU'))
    assert all(v.dtype != torch.bfloat16 for v in state(tmp_path / 'epoch_1.pth')['state_dict']
               .values())


def test_load_from_transfers_weights(uninterrupted, options, tmp_path):
    checkpoint = uninterrupted[0] / f'epoch_{EPOCHS}.pth'
    frozen = [*options, 'runner.max_epochs=1', 'optimizer.lr=0.', 'model.backbone.norm_eval=True',
              'lr_config.min_lr=0.']
    finish(start(frozen, tmp_path / 'next', '--load-from', checkpoint))
    assert_same(state(tmp_path / 'next/epoch_1.pth')['state_dict'], state(checkpoint)['state_dict'])


def test_workers_and_accumulated_gradients(options, tmp_path):
    options = [*options, 'data.workers_per_gpu=2', 'evaluation.workers_per_gpu=1',
               'optimizer_config.update_interval=3', 'runner.max_epochs=1']
    finish(start(options, tmp_path))
    log = [json.loads(x) for x in next(tmp_path.glob('*.log.json')).read_text().splitlines()]
    losses = [x['loss'] for x in log if x.get('mode') == 'train']
    assert len(losses) == 2 and all(0 < loss < 5 for loss in losses)


def test_through_slurm(options, tmp_path):
    """tools/slurm_train.sh, with an srun that starts one task here."""
    commands = tmp_path / 'bin'
    commands.mkdir()
    (commands / 'srun').write_text('#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\n'
                                   'SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 exec "$@"\n')
    (commands / 'scontrol').write_text('#!/bin/bash\nprintf "localhost\\nother\\n"\n')
    for path in commands.iterdir():
        path.chmod(0o755)
    environment = dict(
        os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES='',
        PATH=f'{commands}:{os.environ["PATH"]}', SLURM_JOB_NODELIST='localhost,other')
    command = [ROOT / 'tools/slurm_train.sh', 'partition', 'job', DEMO, tmp_path / 'work',
               '--seed', '1', '--cfg-options', *options, 'runner.max_epochs=1']
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'work/epoch_1.pth').is_file()


def test_through_mpi(options, tmp_path, monkeypatch):
    for name, value in [('RANK', '0'), ('SIZE', '1'), ('LOCAL_RANK', '0')]:
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    monkeypatch.setenv('MASTER_PORT', free_port())
    finish(start([*options, 'runner.max_epochs=1'], tmp_path, '--launcher', 'mpi'))
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_scripts_of_openmixups_own(tmp_path):
    """As openmixup's tools/train.py begins: openmixup first, then the config, then the model."""
    script = tmp_path / 'script.py'
    script.write_text("""
import sys
import openmixup
from mmcv import Config
from openmixup.models import build_model
cfg = Config.fromfile(sys.argv[1])
print(type(build_model(cfg.model).backbone), __name__)
""")
    config = ROOT / 'configs/classification/imagenet/lit_v2/lit_v2_small_8xb128_cos_fp16_ep300.py'
    done = subprocess.run([sys.executable, '-m', 'mmlit.run', script, config],
                          capture_output=True, text=True, cwd=tmp_path)
    assert "<class 'mmlit.openmixup.backbone.LITv2'> __main__" in done.stdout, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize('use_fp16', [False, True])
def test_on_a_gpu(options, tmp_path, use_fp16):
    """The same command where there is a GPU, prefetching its images there."""
    options = [*options, 'runner.max_epochs=6', f'use_fp16={use_fp16}', 'prefetch=True',
               'data.train.prefetch=True',
               "data.train.pipeline=[{'type':'Resize','size':(64,64)}]"]
    out = finish(start(options, tmp_path, cuda=True))
    assert f'precision: {"float16" if use_fp16 else "float32"}' in out and 'on cuda:0' in out
    scores = [float(s) for s in re.findall(r'Epoch\(val\) .*head0_top1: ([\d.]+)', out)]
    assert len(scores) == 6 and max(scores) > 20


def test_ctrl_c_is_one_line_that_says_how_to_go_on(data_options, tmp_path):
    """Also where data loaders have processes of their own, which the terminal stops, too."""
    options = [*data_options, 'data.workers_per_gpu=2', 'runner.max_epochs=1000',
               'log_config.interval=1']
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools/train.py', DEMO, '--work-dir',
               tmp_path / 'run', '--cfg-options', *options]
    process = subprocess.Popen(
        [str(c) for c in command], text=True, start_new_session=True,
        env=dict(os.environ, CUDA_VISIBLE_DEVICES=''), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Where tests run in the background, it may be ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'Epoch [2]' in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130, ''.join(lines[-5:]) + rest
    assert 'Traceback' not in rest
    last = rest.strip().splitlines()[-1]
    assert last.startswith('stopped by Ctrl-C') and last.endswith('--resume')
    assert (tmp_path / 'run/epoch_1.pth').exists()
