"""Hooks of the openmixup training: one class, one reason to exist."""
import resource
from pathlib import Path

import numpy as np
import torch
from mmcv.runner import Hook
from mmengine.logging import print_log
from openmixup.apis import set_random_seed
from openmixup.core.hooks import DistOptimizerHook
from openmixup.core.hooks import ValidateHook as OpenmixupValidateHook
from torch import Tensor

from mmlit.errors import ConfigError


class OptimizerHook(DistOptimizerHook):
    """openmixup's, which divides the loss by zero in a run resumed past its middle: it compares
    the absolute iteration with the number of iterations that remain."""

    def _init(self, runner) -> None:
        super()._init(runner)
        self.remainder_iters = runner.max_iters % self.update_interval
        self.divisible_iters = runner.max_iters - self.remainder_iters


def existing_topk(options: dict, scores: Tensor | np.ndarray) -> dict:
    """Options of an evaluation without those of its ``topk`` that have no meaning for this number
    of classes: a model of three has no fifth best."""
    if scores.ndim != 2 or 'topk' not in options:
        return options
    classes = scores.shape[1]
    topk = tuple(k for k in options['topk'] if k <= classes)
    if topk != tuple(options['topk']):
        print_log(f'there are {classes} classes: topk={tuple(options["topk"])} becomes {topk}',
                  logger='current')
    return {**options, 'topk': topk}


class ValidateHook(OpenmixupValidateHook):
    """openmixup's, which removes the best checkpoint before it has written the better one, asks for
    the five best of three classes, and fails where ``save_best`` names one of several heads."""

    def before_run(self, runner) -> None:
        """Prepare; the validation before the training is left to :class:`FirstValidationHook`."""
        initial, self.initial = self.initial, False
        super().before_run(runner)
        self.initial = initial

    def _run_validate(self, runner) -> None:
        self._named = []
        super()._run_validate(runner)
        if runner.rank == 0 and self.save_best and self.key_indicator not in self._named:
            raise ConfigError(f'evaluation.save_best={self.save_best!r} names no result of the '
                              f'validation: {", ".join(self._named)}')

    def _evaluate(self, runner, results, keyword):
        self.eval_kwargs['eval_param'] = existing_topk(self.eval_kwargs['eval_param'], results)
        before = set(runner.log_buffer.output)
        try:
            score = super()._evaluate(runner, results, keyword)
        except KeyError as e:
            if e.args != (getattr(self, 'key_indicator', None), ):
                raise
            score = None  # it is a result of another head
        self._named += sorted(name for name in runner.log_buffer.output
                              if name.startswith(f'{keyword}_') or name not in before)
        return score

    def _save_ckpt(self, runner, key_score) -> None:
        previous, self.best_ckpt_path = self.best_ckpt_path, None
        super()._save_ckpt(runner, key_score)
        if self.best_ckpt_path is None:  # not better
            self.best_ckpt_path = previous
        elif previous and previous != self.best_ckpt_path:
            Path(previous).unlink(missing_ok=True)


class FirstValidationHook(Hook):
    """Validates before the training, if its hook is to, when all hooks have prepared the model.

    Args:
        validation: The hook of the validation.
    """

    def __init__(self, validation: ValidateHook):
        self.validation = validation

    def before_run(self, runner) -> None:
        if self.validation.initial:
            self.validation._run_validate(runner)


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
