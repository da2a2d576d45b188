import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

# Without a GPU, Triton's kernels run in its interpreter; Triton and mmlit ask when imported.
if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'

# Models here are so small that a second thread costs more than it brings; nor are there cores for
# it where tests run side by side. What tests start inherits it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(1)

TORCH = tuple(int(n) for n in torch.__version__.split('.')[:2])
DATA = Path(__file__).parent / 'data'
# The model behind every file in tests/data.
GOLDEN_ARCH = dict(embed_dims=[16, 32, 64, 128], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8],
                   mlp_ratio=[4, 4, 4, 4])


OPENMIXUP = Path(__file__).parent / 'openmixup'


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def needs_torch(least: tuple[int, int], reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(least > TORCH, reason='before torch {}.{} '.format(*least) + reason)


try:
    TRITON = tuple(int(n) for n in version('triton').split('.')[:2])
except PackageNotFoundError:
    TRITON = (0, 0)
needs_triton = pytest.mark.skipif(TRITON < (3, 3), reason='needs triton >= 3.3')

# Imports what counts FLOPs.
collect_ignore = ['test_flops.py', 'test_metafiles.py', 'benchmark'] if TORCH < (2, 4) else []


def _serves_openmixup(config: pytest.Config) -> bool:
    """Whether this run is of tests/openmixup: a process serves one generation of mmcv."""
    named = [OPENMIXUP in (path := Path(arg.split('::')[0]).resolve()).parents or path == OPENMIXUP
             for arg in config.args]
    if any(named) and not all(named):
        raise pytest.UsageError('tests/openmixup needs mmcv 1, the others mmcv 2: one after the '
                                'other (make test)')
    return any(named)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return (collection_path == OPENMIXUP and not _serves_openmixup(config)) or None


def pytest_report_header(config: pytest.Config) -> str:
    if _serves_openmixup(config):
        return 'toolkits: openmixup (mmcv 1)'
    return 'toolkits: mmdet, mmseg, mmpretrain (mmcv 2); tests/openmixup is run by itself'


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device, and there is none'))


@pytest.fixture
def golden():
    """Loads an .npz of tests/data as a dict of tensors (texts stay NumPy)."""

    def load(name: str) -> dict:
        arrays = np.load(DATA / f'{name}.npz')
        return {k: torch.from_numpy(a) if a.dtype.kind == 'f' else a for k, a in arrays.items()}

    return load
