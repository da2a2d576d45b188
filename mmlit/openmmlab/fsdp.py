"""Sharded training (FSDP) through mmengine's FlexibleRunner; docs/fsdp.md says how, and how far."""

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import STRATEGIES
from mmengine.runner import FlexibleRunner
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from mmlit.checkpoints import describe, replace_when_whole
from mmlit.checkpoints.allow_list import EXTENDABLE
from mmlit.checkpoints.meta import check_same
from mmlit.checkpoints.writing import temporary_name
from mmlit.errors import CheckpointError, ConfigError
from mmlit.models.litv2 import Block
from mmlit.resuming import read_training

from .resuming import check_hooks, check_state, say_stateful_transforms
from .runner import StepsTaken

# For configs: auto_wrap_policy='mmlit.openmmlab.fsdp.wrap_blocks'. Nothing inside the token merging
# may be a unit of its own: it reads the weights of a layer that it does not call.
wrap_blocks = ModuleWrapPolicy({Block})


class ResumableFlexibleRunner(StepsTaken, FlexibleRunner):
    """FlexibleRunner whose checkpoints say how far the training is.

    A checkpoint is written again when it is the best: after the validation, when the loop counts
    the next epoch. mmengine 0.10's CheckpointHook passes the right counts, which its FlexibleRunner
    overwrites; resuming would leave out an epoch.
    """

    def resume(self, filename: str, *args, **kwargs) -> None:
        self.resumed_from = filename
        super().resume(filename, *args, **kwargs)
        self.check_progress(filename)
        say_stateful_transforms(self.train_dataloader.dataset)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        if fn_name == 'after_load_checkpoint':
            check_hooks(kwargs['checkpoint'], self.resumed_from, self.hooks)
        super().call_hook(fn_name, **kwargs)

    def save_checkpoint(self, *args, meta=None, by_epoch=True, **kwargs) -> None:
        loop = self.train_loop
        counts = loop._epoch, loop._iter
        if meta:  # to the one of the two that the checkpoint is named by, mmengine adds one
            loop._epoch, loop._iter = meta['epoch'] - by_epoch, meta['iter'] - (not by_epoch)
        try:
            meta = {**(meta or {}), **describe(self.model)}
            super().save_checkpoint(*args, meta=meta, by_epoch=by_epoch, **kwargs)
        finally:
            loop._epoch, loop._iter = counts


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """FSDPStrategy that can resume, which mmengine 0.10's cannot with torch >= 2.1, and writes
    whole checkpoints or none."""

    def save_checkpoint(self, filename: str, **kwargs) -> None:
        partial = temporary_name(filename)
        super().save_checkpoint(str(partial), **kwargs)
        if is_main_process():
            replace_when_whole(partial, filename)

    def load_checkpoint(self, filename: str, **kwargs) -> dict:
        training = read_training(filename)
        check_state(training, filename, self.optim_wrapper,
                    # mmengine has no such attribute without schedulers in the config.
                    getattr(self, 'param_schedulers', None), model=None)
        try:
            check_same(self.model, training['meta'])
        except CheckpointError as e:
            raise CheckpointError(f'checkpoint {filename}: {e}') from None
        checkpoint = super().load_checkpoint(filename, **kwargs)
        # Resuming would run this text as Python, to find a number of GPUs.
        checkpoint['meta'].pop('config', None)
        return checkpoint

    def load_optim_state_dict(self, state_dict: dict) -> None:
        # mmengine passes the arguments in the order of torch 2.0.
        self.optim_wrapper.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer, state_dict))


def prepare_fsdp(cfg: Config) -> None:
    """Make the strategy of a config able to resume, and to run without a GPU.

    Args:
        cfg: A config with ``strategy.type='FSDPStrategy'``; changed in place.

    Raises:
        ConfigError: If it asks for checkpoints in parts, which cannot be resumed, or for weights to
            start from, which FlexibleRunner would load without regard to what does not fit; or if
            torch is older than 2.6.
    """
    if not EXTENDABLE:
        raise ConfigError('FSDP needs torch >= 2.6, which reads its checkpoints without running '
                          f'what they may hold; this is torch {torch.__version__}')
    strategy = cfg.strategy
    strategy.type = 'ResumableFSDPStrategy'
    if strategy.setdefault('state_dict_cfg', 'full') != 'full':
        raise ConfigError(f"strategy.state_dict_cfg={strategy.state_dict_cfg!r}: only 'full' "
                          'checkpoints, of whole models, can be tested and resumed')
    if cfg.load_from and not cfg.resume:
        raise ConfigError('load_from with FSDP would leave out in silence what does not fit: name '
                          'the weights in model.backbone.init_cfg')
    if not torch.cuda.is_available():
        strategy.setdefault('model_wrapper', dict(type='MMFullyShardedDataParallel'))
        strategy.model_wrapper.setdefault('device_id', 'cpu')  # mmengine gives a GPU's number
        # mmengine's 'full' moves what it gathers to the CPU. If it is there already, torch frees
        # weights in use, and the process dies; moments of the optimizer overwrite each other.
        strategy.state_dict_cfg = dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(
                type='FullStateDictConfig', rank0_only=True, offload_to_cpu=False),
            optim_state_dict_config=dict(
                type='FullOptimStateDictConfig', rank0_only=True, offload_to_cpu=False))
