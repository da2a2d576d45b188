"""A model of openmixup as mmcv's runner calls it, on one process or several."""
from collections.abc import Callable
from contextlib import nullcontext

import torch
from mmcv.parallel import MODULE_WRAPPERS
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.nn.parallel import DistributedDataParallel

from mmlit.errors import ConfigError

# How openmixup's models fail when a loss is nan: the others, and AutoMix, which drops the loss.
NAN_ERRORS = ('Inf or nan value', "unsupported operand type(s) for *: 'NoneType'")


def wrap_model(model: nn.Module, cpu_amp_dtype: torch.dtype | None = None,
               find_unused_parameters: bool = False) -> nn.Module:
    """Wrap a model, which is on its device, for the processes of the current group.

    Args:
        model: The model.
        cpu_amp_dtype: Runs training steps under CPU autocast of this dtype. (On CUDA openmixup's
            models switch autocast by themselves.)
        find_unused_parameters: As in DistributedDataParallel.
    """
    wrapped = SingleModel(model) if get_world_size() == 1 else DistributedModel(
        model, find_unused_parameters)
    wrapped.cpu_amp_dtype = cpu_amp_dtype
    return wrapped


class TrainStep:
    """mmcv's ``train_step`` around a ``module``."""

    cpu_amp_dtype: torch.dtype | None = None

    def train_step(self, data: dict, optimizer, check: Callable[[dict], None]) -> dict:
        """Losses of one batch, as mmcv's runner wants them.

        Args:
            data: The batch.
            optimizer: Not used; mmcv's runner hands it over.
            check: Is called with the losses before they are summed up.
        """
        amp = torch.autocast('cpu', self.cpu_amp_dtype) if self.cpu_amp_dtype else nullcontext()
        try:
            with amp:
                losses = self(**data)
        except (ValueError, TypeError) as e:
            if not str(e).startswith(NAN_ERRORS):
                raise
            losses = dict(loss=torch.tensor(float('nan')))
        except RuntimeError as e:
            if 'Expected to have finished reduction' not in str(e):
                raise
            raise ConfigError('some weights take no part in the loss, such as norms of outputs '
                              'that nothing reads: several processes need find_unused_parameters='
                              'True in the config then') from e
        check(losses)
        loss, log_vars = self.module._parse_losses(losses)
        images = data['img'][0] if isinstance(data['img'], list) else data['img']
        return dict(loss=loss, log_vars=log_vars, num_samples=len(images))


class DistributedModel(TrainStep, DistributedDataParallel):
    """A model under data parallelism.

    mmcv 1.7.2's own wrapper reads attributes that torch >= 2.1 no longer has.
    """

    def __init__(self, model: nn.Module, find_unused_parameters: bool):
        device = next(model.parameters()).device
        super().__init__(
            model,
            device_ids=[device] if device.type == 'cuda' else None,
            broadcast_buffers=False,  # as openmixup: validation shares batch norm's statistics
            find_unused_parameters=find_unused_parameters)


@MODULE_WRAPPERS.register_module()
class SingleModel(TrainStep, nn.Module):
    """A model alone: nothing is reduced, so weights may be left unused, as in AutoMix."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.module = model

    def forward(self, **data):
        return self.module(**_to(data, next(self.module.parameters()).device))


def _to(data, device: torch.device):
    if isinstance(data, Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {k: _to(v, device) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_to(v, device) for v in data]
    return data
