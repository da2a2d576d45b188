"""mmengine's Runner, made to survive being killed at any moment and to run without a GPU."""
import pickle
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import broadcast, master_only
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import (
    BaseTTAModel,
    MMDistributedDataParallel,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.registry import FUNCTIONS, HOOKS, RUNNERS
from mmengine.runner import Runner, set_random_seed

from mmlit.checkpoints import fill_model, read_checkpoint, written_whole


def _statistic(owner: type, name: str):
    """``getattr`` for one purpose: the methods of a HistoryBuffer, which is how pickle names them.

    The real one would let a file reach for anything.
    """
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr of {owner}')
    return getattr(owner, name)


# What mmengine 0.10 keeps in its checkpoints beside tensors: curves of losses, as NumPy arrays.
# With weights_only, torch's default since 2.6, they have to be allowed by name
# (open-mmlab/mmengine#1655).
_MULTIARRAY = import_module(
    'numpy.core.multiarray' if np.__version__.startswith('1.') else 'numpy._core.multiarray')
MMENGINE_TYPES = [
    HistoryBuffer, np.ndarray, np.dtype, _MULTIARRAY._reconstruct, _MULTIARRAY.scalar,
    *(getattr(np.dtypes, f'{kind}DType') for kind in
      ('Float64', 'Float32', 'Int64', 'Int32', 'Bool')),
    (_statistic, 'builtins.getattr'),
    # NumPy 1 and 2 name the same function differently in the files they write.
    (_MULTIARRAY._reconstruct, 'numpy.core.multiarray._reconstruct'),
    (_MULTIARRAY._reconstruct, 'numpy._core.multiarray._reconstruct'),
    (_MULTIARRAY.scalar, 'numpy.core.multiarray.scalar'),
    (_MULTIARRAY.scalar, 'numpy._core.multiarray.scalar'),
]


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """Writes checkpoints atomically, loads them with ``weights_only``, strictly to resume and to
    test, and distributes over gloo where there is no CUDA.

    mmengine's own writes into the final file, leaves out in silence what does not fit, cannot read
    its own checkpoints with torch >= 2.6, and asks for a GPU to distribute.
    """

    whole_model = False  # whether a checkpoint must hold every weight

    def wrap_model(self, model_wrapper_cfg, model):
        if not self.distributed or torch.cuda.is_available() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        self.logger.info('SyncBN needs CUDA: SyncBatchNorm layers become BatchNorm')
        return MMDistributedDataParallel(
            revert_sync_batchnorm(model),
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False))

    def build_train_loop(self, loop):
        loop = super().build_train_loop(loop)
        iterator = getattr(loop, 'dataloader_iterator', None)
        if hasattr(iterator, 'skip_iter'):
            # To resume, OneDL's mmengine skips samples without loading them. Then those that follow
            # are augmented otherwise than in an uninterrupted run.
            iterator.skip_iter = partial(_load_and_drop, iterator)
        return loop

    def resume(self, *args, **kwargs) -> None:
        self.whole_model = True
        super().resume(*args, **kwargs)

    def val(self) -> dict:
        self.whole_model = True
        return super().val()

    def test(self) -> dict:
        self.whole_model = True
        return super().test()

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=None) -> dict:
        checkpoint = read_checkpoint(filename, allowed=MMENGINE_TYPES)
        # Resuming would run this text as Python, to find a number of GPUs.
        checkpoint.get('meta', {}).pop('config', None)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        fill_model(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, filename,
                   strict=self.whole_model)
        self._has_loaded = True
        return checkpoint

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        if '://' in str(out_dir):  # an object store, which knows no partial files
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with written_whole(Path(out_dir, filename)) as partial:
            super().save_checkpoint(out_dir, partial.name, *args, **kwargs)


def _load_and_drop(iterator, batches: int) -> None:
    for _ in range(batches):
        next(iterator)


@HOOKS.register_module()
class ShareBuffersHook(Hook):
    """Validates with the buffers that checkpoints hold, those of the first process: batch norm that
    is not synchronised has statistics of its own in each. mmcv 1 did the same."""

    priority = 'LOW'  # after hooks that put other weights in place, such as EMA's

    def before_val_epoch(self, runner) -> None:
        for buffer in runner.model.buffers():
            broadcast(buffer)


@HOOKS.register_module()
class SeedHook(Hook):
    """Seeds torch at every step, and all generators at every epoch, so that a resumed run draws
    what an uninterrupted one does (dropped paths, sampled boxes, augmentations)."""

    def before_train_epoch(self, runner) -> None:
        set_random_seed((runner.seed + 1_000_003 * runner.epoch) % 2**31)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        torch.manual_seed((runner.seed + 1_000_003 * runner.iter + runner.rank) % 2**31)


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seeds NumPy and random of a data loader's worker like torch: anew in each epoch."""
    set_random_seed(torch.initial_seed() % 2**31)
