"""The folder of a training: one training at a time, and the newest whole checkpoint."""
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmlit import work_dir as module
from mmlit.checkpoints.writing import temporary_name
from mmlit.errors import CheckpointError, ConfigError
from mmlit.work_dir import latest_checkpoint, lock_work_dir

ROOT = Path(__file__).parents[1]
HOLDER = '''
import os, sys, time
from mmlit.work_dir import lock_work_dir
with lock_work_dir(sys.argv[1]):
    if os.fork() == 0:  # as a worker of a data loader, which lives on when its parent is killed
        time.sleep(60)
    print('locked', flush=True)
    time.sleep(60)
'''


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda message, logger, level: lines.append(message))
    return lines


def save(path: Path, value: float = 0.) -> Path:
    torch.save(dict(state_dict=dict(weight=torch.full((1000, ), value))), path)
    return path


def test_second_training_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / 'new' / 'work'
    with lock_work_dir(folder):
        said = f'another training is running in {folder} .process {os.getpid()} on .*--work-dir'
        with pytest.raises(ConfigError, match=said) as e, lock_work_dir(folder):
            pass
        assert '\n' not in str(e.value)
        with lock_work_dir(tmp_path / 'other'):
            pass
    with lock_work_dir(folder):
        pass


def test_killed_training_leaves_no_lock_even_while_its_workers_live(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', HOLDER, tmp_path], stdout=subprocess.PIPE,
                               text=True, start_new_session=True, cwd=ROOT)
    try:
        assert process.stdout.readline() == 'locked\n'
        with pytest.raises(ConfigError, match=f'process {process.pid} on'), lock_work_dir(tmp_path):
            pass
        process.kill()
        process.wait()
        with lock_work_dir(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_holder_removes_what_killed_runs_left_unfinished_and_nothing_else(tmp_path):
    left = [temporary_name(tmp_path / name) for name in ('epoch_3.pth', 'x', 'best.a.pth')]
    mine = [tmp_path / name for name in ('epoch_2.pth', '.notes.tmp', 'x.tmp', '.a.tmp.pth')]
    for path in left + mine:
        path.touch()
    with lock_work_dir(tmp_path):
        assert not any(path.exists() for path in left) and all(path.exists() for path in mine)


def file_as_folder(path):
    path.write_text('')
    return path / 'below'


@pytest.mark.parametrize('make', [
    lambda path: file_as_folder(path).parent, file_as_folder, lambda path: path / ('x' * 300),
    lambda path: Path('/proc/none'), lambda path: path / '/'.join(['x' * 200] * 30)])
def test_folder_that_cannot_be_written_is_one_paragraph(tmp_path, make):
    folder, said = make(tmp_path / 'work'), 'cannot write into the work dir .*--work-dir'
    with pytest.raises(ConfigError, match=said) as e, lock_work_dir(folder):
        pass
    assert '\n' not in str(e.value) and len(str(e.value)) < 500


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, warnings):
    def flock(*args):
        raise OSError(errno.ENOTSUP, 'Operation not supported')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with lock_work_dir(tmp_path):
        pass
    assert len(warnings) == 1 and 'has no locks' in warnings[0]


def lock_in_group(rank: int, folder: Path, answers) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank,
                                         world_size=2)
    try:
        with lock_work_dir(folder / 'work'):
            answers.put('locked')
            torch.distributed.barrier()
    except ConfigError as e:
        answers.put(str(e))
    torch.distributed.barrier()
    time.sleep(0.1)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('free', [True, False])
def test_every_process_learns_whether_the_folder_is_free(tmp_path, free):
    answers = multiprocessing.get_context('spawn').SimpleQueue()
    blocker = lock_work_dir(tmp_path / ('other' if free else 'work'))
    with blocker:
        torch.multiprocessing.spawn(lock_in_group, (tmp_path, answers), nprocs=2)
    a, b = answers.get(), answers.get()
    assert a == b and ('locked' if free else 'another training is running') in a


def truncate(path):
    path.write_bytes(path.read_bytes()[:-600])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def dangle(path):
    path.unlink()
    path.symlink_to('none.pth')


@pytest.mark.parametrize('spoil', [
    truncate, flip, dangle, lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'\0' * 5000), lambda path: path.write_text('PK garbage')])
def test_newest_whole_checkpoint_is_found_and_the_others_named(tmp_path, spoil, warnings):
    names = 'epoch_9.pth', 'epoch_10.pth', 'epoch_11.pth'
    for name in names:
        save(tmp_path / name)
    save(tmp_path / 'best_epoch_12.pth')
    assert latest_checkpoint(tmp_path).name == 'epoch_11.pth' and not warnings
    spoil(tmp_path / 'epoch_11.pth')
    assert latest_checkpoint(tmp_path).name == 'epoch_10.pth'
    assert len(warnings) == 1 and 'passed over: epoch_11.pth, which is' in warnings[0]
    for name in names[:2]:
        spoil(tmp_path / name)
    with pytest.raises(CheckpointError, match='no checkpoint .* is whole'):
        latest_checkpoint(tmp_path)


def test_links_to_whole_checkpoints_count_and_empty_folders_have_none(tmp_path):
    (tmp_path / 'work').mkdir()
    assert latest_checkpoint(tmp_path / 'work') is latest_checkpoint(tmp_path / 'absent') is None
    (tmp_path / 'work/iter_4.pth').symlink_to(save(tmp_path / 'kept.pth'))
    assert latest_checkpoint(tmp_path / 'work').name == 'iter_4.pth'
