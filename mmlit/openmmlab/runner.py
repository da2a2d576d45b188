"""mmengine's Runner, made to survive being killed at any moment and to run without a GPU."""
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dist import broadcast, master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import (
    BaseTTAModel,
    MMDistributedDataParallel,
    is_model_wrapper,
    revert_sync_batchnorm,
)
from mmengine.registry import FUNCTIONS, HOOKS, RUNNERS
from mmengine.runner import Runner, set_random_seed

from mmlit.checkpoints import describe, fill_model, read_checkpoint, written_whole
from mmlit.errors import CheckpointError, ConfigError, DivergedError
from mmlit.finite import ADVICE, check_losses, check_weights, not_finite
from mmlit.resuming import read_training

from .resuming import check_hooks, check_state, say_stateful_transforms


class StepsTaken:
    """For a Runner: a training that would take no step is an error."""

    def build_dataloader(self, dataloader, *args, **kwargs):
        loader = super().build_dataloader(dataloader, *args, **kwargs)
        # Before anything is drawn from it: an InfiniteSampler of nothing searches for ever.
        if hasattr(loader.dataset, '__len__') and len(loader.dataset) == 0:
            dataset = loader.dataset
            raise ConfigError(f'the data set {type(dataset).__name__} has no samples '
                              f'(ann_file={getattr(dataset, "ann_file", None)!r}, filter_cfg='
                              f'{getattr(dataset, "filter_cfg", None)}): nothing is left after '
                              'its filters, or its annotations name nothing')
        return loader

    def build_train_loop(self, loop):
        loop = super().build_train_loop(loop)
        loader = loop.dataloader
        if len(loader) == 0:
            raise ConfigError(
                f'train_dataloader has {len(loader.dataset)} samples and no batch: lower its '
                'batch_size, or set drop_last=False')
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = _SeededBatches(loop.dataloader_iterator, self)
        return loop

    def check_progress(self, source: str) -> None:
        """Compare the progress of a checkpoint with the length of this training.

        Raises:
            ConfigError: If it is already further.
        """
        loop = self.train_loop
        # mmengine's iteration-based loop has one epoch, whatever the checkpoint's count.
        by_iter = hasattr(loop, 'dataloader_iterator')
        key, done, end = ('max_iters', loop.iter, loop.max_iters) if by_iter else (
            'max_epochs', loop.epoch, loop.max_epochs)
        if done > end:
            raise ConfigError(f'checkpoint {source} has trained {done} {key[4:]}, but train_cfg.'
                              f'{key} is {end}: there is nothing left to train')
        if done == end:
            self.logger.info(f'the training of {source} is finished: {done} of {end} {key[4:]}; '
                             f'a larger train_cfg.{key} would continue it')


@RUNNERS.register_module()
class ResumableRunner(StepsTaken, Runner):
    """Writes checkpoints atomically, loads them with ``weights_only``, strictly to resume and to
    test, and distributes over gloo where there is no CUDA.

    mmengine's own writes into the final file, leaves out in silence what does not fit, cannot read
    its own checkpoints with torch >= 2.6, and asks for a GPU to distribute.
    """

    whole_model = False  # whether a checkpoint must hold every weight
    resuming = False

    def wrap_model(self, model_wrapper_cfg, model):
        if not self.distributed or torch.cuda.is_available() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        self.logger.info('SyncBN needs CUDA: SyncBatchNorm layers become BatchNorm')
        return MMDistributedDataParallel(
            revert_sync_batchnorm(model),
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False))

    def resume(self, filename: str, *args, **kwargs) -> None:
        self.whole_model = self.resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f'checkpoint {filename} cannot be resumed: {e}') from e
        finally:
            self.resuming = False
        self.check_progress(filename)
        say_stateful_transforms(self.train_dataloader.dataset)

    def val(self) -> dict:
        self.whole_model = True
        return super().val()

    def test(self) -> dict:
        self.whole_model = True
        return super().test()

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=None) -> dict:
        if self.resuming:
            checkpoint = read_training(filename)
            check_hooks(checkpoint, filename, self.hooks)
            check_state(checkpoint, filename, self.optim_wrapper, self.param_schedulers, self.model)
        else:
            checkpoint = read_checkpoint(filename)
        # Resuming would run this text as Python, to find a number of GPUs.
        checkpoint.get('meta', {}).pop('config', None)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        fill_model(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, filename,
                   strict=self.whole_model, resume=self.resuming)
        self._has_loaded = True
        return checkpoint

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args, meta: dict | None = None,
                        **kwargs) -> None:
        meta = {**(meta or {}), **describe(self.model)}
        bad = not_finite(_saved_modules(self))
        if bad:
            raise DivergedError(f'{bad} is not finite: {filename} is not written. {ADVICE}')
        if '://' in str(out_dir):  # an object store, which knows no partial files
            super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
            return
        with written_whole(Path(out_dir, filename)) as partial:
            super().save_checkpoint(out_dir, partial.name, *args, meta=meta, **kwargs)


class _SeededBatches:
    """Batches of an iteration-based training; all generators are seeded before each, so that a
    resumed run, which draws those of the finished steps in a row, goes on as if uninterrupted.

    Args:
        batches: The loop's iterator.
        runner: Its runner, which knows the seed, once it has resumed.
    """

    def __init__(self, batches: Iterator, runner: Runner):
        self.batches, self.runner, self.drawn = batches, runner, 0

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> object:
        runner = self.runner
        set_random_seed((runner.seed + 1_000_003 * self.drawn + runner.rank) % 2**31)
        self.drawn += 1
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        """Load and drop batches: OneDL's mmengine calls this to resume. Its own skips the samples
        without loading them, and those that follow are augmented otherwise."""
        for _ in range(count):
            next(self)


@HOOKS.register_module()
class ShareBuffersHook(Hook):
    """Validates with the buffers that checkpoints hold, those of the first process: batch norm that
    is not synchronised has statistics of its own in each. mmcv 1 did the same."""

    priority = 'LOW'  # after hooks that put other weights in place, such as EMA's

    def before_val_epoch(self, runner) -> None:
        for buffer in runner.model.buffers():
            broadcast(buffer)


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stops a training that diverges before mmengine's CheckpointHook removes older checkpoints,
    which it does before it writes the new one."""

    priority = 'LOW'  # after the log of the step and the moving average, before checkpoints

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if isinstance(outputs, dict):
            check_losses(outputs, _moment(runner), _learning_rate(runner), _device(runner))
        if any(_saves_now(hook, runner) for hook in runner.hooks):
            self._check_weights(runner)

    def after_train_epoch(self, runner) -> None:
        self._check_weights(runner)

    def before_val_epoch(self, runner) -> None:  # the best checkpoint is written after it
        self._check_weights(runner)

    def _check_weights(self, runner) -> None:
        check_weights(_saved_modules(runner), _moment(runner), _device(runner))


def _saved_modules(runner) -> dict[str, torch.nn.Module]:
    """What a checkpoint holds: the model, and moving averages of it."""
    averages = {type(hook).__name__: hook.ema_model for hook in runner.hooks
                if isinstance(getattr(hook, 'ema_model', None), torch.nn.Module)}
    return {'the model': runner.model, **averages}


def _saves_now(hook: Hook, runner) -> bool:
    return isinstance(hook, CheckpointHook) and not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner)))


def _moment(runner) -> str:
    return f'epoch {runner.epoch + 1}, iteration {runner.iter + 1}'


def _learning_rate(runner) -> float:
    rates = runner.optim_wrapper.get_lr()  # of each group; by name where there are several
    return max(rate for values in rates.values() for rate in _numbers(values))


def _numbers(values) -> list[float]:
    if isinstance(values, dict):
        return [rate for inner in values.values() for rate in _numbers(inner)]
    return list(values)


def _device(runner) -> torch.device:
    return next(runner.model.parameters()).device


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
