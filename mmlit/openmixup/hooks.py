"""Hooks of the openmixup training: one class, one reason to exist."""
import resource
from pathlib import Path

import torch
from mmcv.runner import Hook
from openmixup.apis import set_random_seed
from openmixup.core.hooks import DistOptimizerHook
from openmixup.core.hooks import ValidateHook as OpenmixupValidateHook


class OptimizerHook(DistOptimizerHook):
    """openmixup's, which divides the loss by zero in a run resumed past its middle: it compares
    the absolute iteration with the number of iterations that remain."""

    def _init(self, runner) -> None:
        super()._init(runner)
        self.remainder_iters = runner.max_iters % self.update_interval
        self.divisible_iters = runner.max_iters - self.remainder_iters


class ValidateHook(OpenmixupValidateHook):
    """openmixup's, which removes the best checkpoint before it has written the better one."""

    def _save_ckpt(self, runner, key_score) -> None:
        previous, self.best_ckpt_path = self.best_ckpt_path, None
        super()._save_ckpt(runner, key_score)
        if self.best_ckpt_path is None:  # not better
            self.best_ckpt_path = previous
        elif previous and previous != self.best_ckpt_path:
            Path(previous).unlink(missing_ok=True)


class SeedEpochHook(Hook):
    """Seeds every epoch by its number, so that a resumed run draws what an uninterrupted one does.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_epoch(self, runner) -> None:
        # Far apart per epoch, so that no rank of one epoch repeats a rank of another.
        set_random_seed((self.seed + 1_000_003 * runner.epoch + runner.rank) % 2**32)


class HostMemoryHook(Hook):
    """Logs the peak resident memory in MB, where mmcv's logger has no GPU memory to show."""

    def after_train_iter(self, runner) -> None:
        if not torch.cuda.is_available():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            runner.log_buffer.output['memory_mb'] = peak
