"""mmcv's epoch runner, made to survive being killed at any moment."""
import os
from pathlib import Path

from mmcv.runner import EpochBasedRunner
from torch import nn

from mmlit.checkpoints import describe, fill_model, read_checkpoint, written_whole
from mmlit.errors import CheckpointError


class ResumableRunner(EpochBasedRunner):
    """Writes checkpoints atomically, and resumes without running what a checkpoint holds.

    mmcv's own writes into the final file, and executes the config text of the checkpoint that it
    resumes from.
    """

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
            self.run_iter(batch, train_mode=True, **kwargs)
            self.call_hook('after_train_iter')
            del self.data_batch
            self._iter += 1
        self.call_hook('after_train_epoch')
        self._epoch += 1

    def save_checkpoint(self, out_dir, filename_tmpl='epoch_{}.pth', save_optimizer=True,
                        meta=None, create_symlink=True) -> None:
        """Save beside the final name first: the final file is always a whole one."""
        out_dir = Path(out_dir)
        name = filename_tmpl.format(self.epoch + 1)
        with written_whole(out_dir / name) as partial:
            super().save_checkpoint(out_dir, partial.name, save_optimizer,
                                    {**(meta or {}), **describe(self.model)},
                                    create_symlink=False)
        if create_symlink:
            link = out_dir / '.latest.tmp'
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            os.replace(link, out_dir / 'latest.pth')

    def restore(self, checkpoint: dict, iters_per_epoch: int) -> None:
        """Take up the training state of a checkpoint whose weights the model already has.

        Args:
            checkpoint: As :func:`load_training` returned it.
            iters_per_epoch: Of the training at hand, which may run on another number of processes.
        """
        meta = checkpoint['meta']
        self._epoch = meta['epoch']
        self._iter = self._epoch * iters_per_epoch
        # Best score so far, and the loss scale.
        self.meta.update({k: meta[k] for k in ('hook_msgs', 'fp16') if k in meta})
        self.optimizer.load_state_dict(checkpoint['optimizer'])
        self.logger.info('resumed after epoch %d, iter %d', self.epoch, self.iter)


def load_training(model: nn.Module, path: str | Path) -> dict:
    """Load the weights of a training to resume.

    Args:
        model: Model to load the weights into.
        path: The checkpoint.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If it cannot be read, does not fit, or holds no state of a training.
    """
    checkpoint = read_checkpoint(path)
    fill_model(model, checkpoint, path, strict=True, resume=True)
    if 'optimizer' not in checkpoint or 'epoch' not in checkpoint.get('meta', {}):
        raise CheckpointError(f'checkpoint {path} holds weights but no state of a training: use '
                              '--load-from to start a new training from it')
    return checkpoint
