"""The folder of a training: locked while it runs, and its newest whole checkpoint."""
import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from mmengine.logging import print_log

from mmlit.checkpoints.reading import check_sums
from mmlit.checkpoints.writing import TEMPORARY
from mmlit.errors import CheckpointError, ConfigError

LOCK = '.mmlit.lock'
# What a file system answers that has no locks, such as some mounts of NFS.
NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}
_held: set[int] = set()


@contextlib.contextmanager
def lock_work_dir(path: str | Path) -> Iterator[None]:
    """Keep a work dir for one training: two in one folder would destroy each other's checkpoints.

    The system frees the lock when its process ends, however it ends. In a process group the first
    process takes it for all, and all learn the outcome. What runs that were killed left unfinished
    is removed.

    Args:
        path: The folder; it is made if it is not there.

    Raises:
        ConfigError: In every process, if another training has the folder, or it cannot be written.
    """
    grouped = dist.is_available() and dist.is_initialized()
    descriptor, problem = None, None
    if not grouped or dist.get_rank() == 0:
        try:
            descriptor = _lock(Path(path))
        except ConfigError as e:
            problem = str(e)
    if grouped:
        outcome = [problem]
        dist.broadcast_object_list(outcome, src=0)
        (problem, ) = outcome
    if problem:
        raise ConfigError(problem)
    try:
        yield
    finally:
        if descriptor is not None:
            _held.discard(descriptor)
            os.close(descriptor)


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """Newest whole checkpoint (``epoch_N.pth`` or ``iter_N.pth``) in a work dir.

    Newer ones that are not whole are passed over, with a warning that names them.

    Returns:
        Its path, or None if there are no checkpoints.

    Raises:
        CheckpointError: If there are some, and none is whole.
    """
    found = [(int(m[1]), p) for p in Path(work_dir).glob('*.pth')
             if (m := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', p.name))]
    damaged = []
    for _, path in sorted(found, reverse=True):
        problem = _damage(path)
        if problem is None:
            if damaged:
                print_log(f'{path} is the newest whole checkpoint; passed over: '
                          f'{"; ".join(damaged)}', logger='current', level=logging.WARNING)
            return path
        damaged.append(f'{path.name}, {problem}')
    if damaged:
        raise CheckpointError(f'no checkpoint in {work_dir} is whole: {"; ".join(damaged)}. Remove '
                              'them to train from the start.')
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with the file of a checkpoint, or None; reads it, but makes no tensors."""
    try:
        if path.stat().st_size == 0:
            return 'which is empty'
        if not zipfile.is_zipfile(path):
            return 'which is truncated or no checkpoint'
        check_sums(path)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
        return f'which is damaged ({e})'
    return None


def _lock(folder: Path) -> int | None:
    """Descriptor of the locked file, or None where the file system has no locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        if not os.access(folder, os.W_OK):  # of a lock that somebody else left there
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        raise ConfigError(f'cannot write into the work dir {str(folder)[:300]}: {e.strerror}. '
                          'Name another one with --work-dir.') from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = os.read(descriptor, 200).decode(errors='replace').strip()
        os.close(descriptor)
        if e.errno in NO_LOCKS:
            print_log(f'the file system of {folder} has no locks ({e.strerror}): nothing keeps a '
                      'second training out of this work dir', logger='current',
                      level=logging.WARNING)
            return None
        raise ConfigError(f'another training is running in {folder} '
                          f'({holder or "an unknown process"}): wait for its end, or name another '
                          'folder with --work-dir') from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
    _held.add(descriptor)
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return descriptor


def _let_go() -> None:
    """In a child: a worker of a data loader may outlive its killed parent by some seconds."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
