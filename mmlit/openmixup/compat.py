"""What openmixup 0.2.9 needs to import and run on a current machine, in one place.

:func:`import_openmixup` and the functions below it are called by ``mmlit.openmixup``; ``import
mmlit`` touches none of this. Where CUDA exists, nothing of CUDA is replaced.
"""
import contextlib
import functools
import importlib
import importlib.util
import sys
import types
import warnings

import numpy
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmlit import distributed
from mmlit.errors import GenerationError
from mmlit.generations import INSTALL, use_mmcv1


def import_openmixup() -> types.ModuleType:
    """Import openmixup, with whatever this environment needs for it."""
    if not sys.modules.get('openmixup') and importlib.util.find_spec('openmixup') is None:
        raise GenerationError(f'openmixup is not installed. This brings it, with mmcv 1: {INSTALL}')
    if 'openmixup.apis' not in sys.modules:
        with warnings.catch_warnings():
            # mmcv 1.x and openmixup warn of their age, of apex and of mmcv-full.
            warnings.simplefilter('ignore')
            use_mmcv1()
            with optimizers_may_be_replaced():
                for module in ('openmixup', 'openmixup.models', 'openmixup.core', 'openmixup.apis'):
                    importlib.import_module(module)
    keep_on_cpu_without_cuda()
    allow_zero_workers()
    supply_numpy_int()
    return sys.modules['openmixup']


# 1. mmcv 1, and its compiled ops: see mmlit.generations and mmlit.mmcv_ops.


# 2. torch >= 2.5 has `torch.optim.Adafactor`, which mmcv 1.7.2 registers with all of torch.optim;
#    openmixup then fails to register its own (and would for LAMB, Lion, ... as torch gains them).
@contextlib.contextmanager
def optimizers_may_be_replaced():
    from mmcv.runner.optimizer.builder import OPTIMIZERS
    register = OPTIMIZERS._register_module

    def replace(*args, **kwargs):
        register(*args, **{**kwargs, 'force': True})

    OPTIMIZERS._register_module = replace
    try:
        yield
    finally:
        OPTIMIZERS._register_module = register


# 3. torchvision: see mmlit.compat, for mmengine and mmpretrain need it too.


# 4. openmixup calls `.cuda()` on tensors and models, and names the device 'cuda' when it shares
#    seeds, whether or not there is a GPU (mixup, cutmix, gathering of results, samplers).
def keep_on_cpu_without_cuda() -> None:
    if torch.cuda.is_available():
        return
    Tensor.cuda = _stay
    nn.Module.cuda = _stay
    for module in ('openmixup.utils.dist_utils', 'openmixup.datasets.loader.sampler'):
        module = importlib.import_module(module)
        share = module.sync_random_seed
        if not isinstance(share, functools.partial):
            module.sync_random_seed = functools.partial(share, device='cpu')


def _stay(self, *args, **kwargs):
    return self


# 5. Without a process group, openmixup's training fails in three places: its data loader reads an
#    unbound `rank` when there is a seed, the plain OptimizerHook gets `update_interval`, and its
#    validation hook broadcasts. A group of one process serves them all.
def process_group(launcher: str = 'none'):
    """A process group for ``launcher``; of one process for 'none'."""
    return distributed.process_group(launcher, alone=True)


def allow_zero_workers() -> None:
    """openmixup 0.2.9 asks for persistent workers also when there are none, which torch refuses."""
    import openmixup.datasets
    build = openmixup.datasets.build_dataloader
    if hasattr(build, '__wrapped__'):
        return

    @functools.wraps(build)
    def build_dataloader(dataset, imgs_per_gpu, workers_per_gpu, **kwargs):
        if workers_per_gpu == 0:
            kwargs['persistent_workers'] = False
        kwargs.setdefault('pin_memory', torch.cuda.is_available())
        return build(dataset, imgs_per_gpu, workers_per_gpu, **kwargs)

    openmixup.datasets.build_dataloader = build_dataloader


@contextlib.contextmanager
def without_idle_warnings():
    """Silences what mmlit's users can do nothing about while a training runs."""
    with warnings.catch_warnings():
        # Of openmixup: that it limits the threads of the workers.
        warnings.filterwarnings('ignore', 'Setting (OMP|MKL)_NUM_THREADS')
        # Of torch 2.13: the new name of an argument, which torch 2.1 does not have.
        warnings.filterwarnings('ignore', '.broadcast_buffers. is deprecated')
        # Of torch: depthwise kernels (C, 1, k, k) are the same memory in both layouts.
        warnings.filterwarnings('ignore', 'Grad strides do not match')
        yield


# 6. openmixup's prefetcher normalises on a CUDA stream, so its configs leave ToTensor and Normalize
#    out of the pipeline when they set `prefetch=True`.
def without_prefetch(cfg) -> None:
    """Put ToTensor and Normalize back into pipelines that prefetch, where there is no CUDA."""
    if torch.cuda.is_available():
        return
    normalize = [dict(type='ToTensor'), dict(type='Normalize', **cfg.img_norm_cfg)]
    for split in ('train', 'val', 'test'):
        data = cfg.data.get(split)
        if isinstance(data, dict) and data.get('prefetch', False):
            data.prefetch = False
            for key in data:
                if key == 'pipelines':  # of several views
                    data[key] = [[*pipeline, *normalize] for pipeline in data[key]]
                elif key.startswith('pipeline') and data[key]:
                    data[key] = [*data[key], *normalize]
            print_log(f'data.{split}: prefetch needs CUDA; images are normalised in the workers',
                      logger='current')
    cfg.prefetch = False


# 7. NumPy >= 1.24 has no `np.int`, which openmixup calls in four modules (snapmix among them).
def supply_numpy_int() -> None:
    for name in ('models.augments.snapmix', 'datasets.loader.sampler',
                 'datasets.pipelines.transforms', 'third_party.clustering'):
        # By name: packages of openmixup have functions of the same name as their modules.
        importlib.import_module(f'openmixup.{name}')
        sys.modules[f'openmixup.{name}'].np = _NumPyWithInt('numpy')


class _NumPyWithInt(types.ModuleType):
    """NumPy, for one module, with the name that it had for Python's int."""

    int = int

    def __getattr__(self, name: str):
        return getattr(numpy, name)
