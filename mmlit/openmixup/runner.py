"""mmcv's epoch runner, made to survive being killed at any moment."""
import os
from pathlib import Path

import torch
from mmcv.runner import EpochBasedRunner, Hook
from torch import nn

from mmlit.checkpoints import describe, fill_model, written_whole
from mmlit.checkpoints.writing import temporary_name
from mmlit.errors import CheckpointError, ConfigError, DivergedError
from mmlit.finite import ADVICE, check_losses, check_weights, not_finite
from mmlit.resuming import check_optimizer

from .state import TrainingState, check_resumable

ITERS = 'iters_per_epoch'  # in the meta of a checkpoint


class ResumableRunner(EpochBasedRunner):
    """Writes checkpoints atomically, resumes without running what they hold, and stops when a
    training diverges.

    mmcv's own writes into the final file, and executes the config text of the checkpoint that it
    resumes from.
    """

    iters_per_epoch: int | None = None
    state: TrainingState | None = None
    resumed: dict | None = None

    def train(self, data_loader, **kwargs) -> None:
        """Train one epoch (mmcv's, without its pause of two seconds)."""
        self.model.train()
        self.mode = 'train'
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        self.call_hook('before_train_epoch')
        for i, batch in enumerate(data_loader):
            self.data_batch = batch
            self._inner_iter = i
            self.call_hook('before_train_iter')
            self.run_iter(batch, train_mode=True, check=self.check_losses, **kwargs)
            self.call_hook('after_train_iter')
            del self.data_batch
            self._iter += 1
        self.call_hook('after_train_epoch')
        self._epoch += 1

    def check_losses(self, losses: dict) -> None:
        """Stop all processes if a loss of one is not finite."""
        check_losses(losses, self.moment, max(self.current_lr()), self.device)

    def check_weights(self) -> None:
        """Stop all processes if a weight of one is not finite."""
        check_weights({'the model': self.model.module}, self.moment, self.device)

    @property
    def moment(self) -> str:
        return f'epoch {self.epoch + 1}, iteration {self.inner_iter + 1} of {len(self.data_loader)}'

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def save_checkpoint(self, out_dir, filename_tmpl='epoch_{}.pth', save_optimizer=True,
                        meta=None, create_symlink=True) -> None:
        """Save beside the final name first: the final file is always a whole one, and finite."""
        out_dir = Path(out_dir)
        name = filename_tmpl.format(self.epoch + 1)
        bad = not_finite({'the model': self.model.module})
        if bad:
            raise DivergedError(f'{bad} is not finite: {name} is not written. {ADVICE}')
        meta = {**(meta or {}), **describe(self.model), **self.state.changes(),
                ITERS: self.iters_per_epoch}
        with written_whole(out_dir / name) as partial:
            super().save_checkpoint(out_dir, partial.name, save_optimizer, meta,
                                    create_symlink=False)
        if create_symlink:
            link = temporary_name(out_dir / 'latest.pth')
            link.symlink_to(name)
            os.replace(link, out_dir / 'latest.pth')

    def restore(self, checkpoint: dict, source: str) -> list[str]:
        """Take up the training state of a checkpoint whose weights the model already has.

        Args:
            checkpoint: As :func:`load_training` returned it.
            source: Its path, for messages.

        Returns:
            The settings of its optimizer that differ from this one's, and are kept.

        Raises:
            CheckpointError: If its optimizer is another one, or its state is not whole.
            ConfigError: If it is further than this training goes.
        """
        meta = checkpoint['meta']
        if meta['epoch'] > self._max_epochs:
            raise ConfigError(f'checkpoint {source} has trained {meta["epoch"]} epochs, but runner.'
                              f'max_epochs is {self._max_epochs}: there is nothing left to train')
        if ITERS in meta and meta['iter'] != meta['epoch'] * meta[ITERS]:
            raise CheckpointError(
                f'checkpoint {source} was written in the middle of epoch {meta["epoch"]}, and only '
                'whole epochs can be resumed: take one that was written at the end of an epoch '
                '(checkpoint_config.by_epoch=True), or --load-from')
        try:
            settings = check_optimizer(checkpoint['optimizer'], self.optimizer, self.model.module,
                                       started=meta['iter'] > 0)
        except CheckpointError as e:
            raise CheckpointError(f'checkpoint {source} cannot be resumed: {e}. --load-from starts '
                                  'a new training from its weights.') from None
        self._epoch = meta['epoch']
        # This training may run on another number of processes.
        self._iter = self._epoch * self.iters_per_epoch
        # Best score so far, and the loss scale.
        self.meta.update({k: meta[k] for k in ('hook_msgs', 'fp16') if k in meta})
        self.optimizer.load_state_dict(checkpoint['optimizer'])
        self.resumed = checkpoint
        return settings


class StateHook(Hook):
    """Brings back what hooks and model keep, once all hooks have added to the model what they add,
    and before anything is validated.

    Args:
        hooks: The hooks of the config.
    """

    def __init__(self, hooks: list[Hook]):
        self.hooks = hooks

    def before_run(self, runner: ResumableRunner) -> None:
        model = runner.model.module
        runner.state = TrainingState(model, self.hooks)
        if runner.resumed:
            saved = runner.resumed['state_dict']
            own = model.state_dict()
            averages = {k: v for k, v in saved.items() if k.startswith('ema_')}
            wrong = [k for k in averages.keys() | {k for k in own if k.startswith('ema_')}
                     if k not in averages or k not in own or averages[k].shape != own[k].shape]
            if wrong:
                raise CheckpointError(f'the moving average {min(wrong)} is not in both the '
                                      'checkpoint and the model: it was trained with other options '
                                      'of EMAHook. --load-from starts a new training.')
            model.load_state_dict(averages, strict=False)
            runner.state.restore(runner.resumed['meta'])
            runner.resumed = None


class FiniteHook(Hook):
    """Stops a training before it validates or saves weights that are not finite."""

    def after_train_epoch(self, runner: ResumableRunner) -> None:
        runner.check_weights()


def load_training(model: nn.Module, checkpoint: dict, source: str, hooks: list[Hook]) -> None:
    """Load the weights of a training to resume.

    Args:
        model: Model to load the weights into.
        checkpoint: As :func:`mmlit.resuming.read_training` returned it.
        source: Its path, for messages.
        hooks: The hooks of the config.

    Raises:
        CheckpointError: If it does not fit, or does not hold what hooks need.
    """
    if not isinstance(checkpoint.get('state_dict'), dict):
        raise CheckpointError(f'checkpoint {source} has no state_dict: it is of no training')
    check_resumable(checkpoint, source, hooks)
    # Moving averages find their place later, for hooks add it to the model: see StateHook.
    weights = {k: v for k, v in checkpoint['state_dict'].items()
               if not str(k).startswith('ema_')}
    fill_model(model, {**checkpoint, 'state_dict': weights}, source, resume=True)
