"""Trainings that diverge stop, before they replace good checkpoints."""
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmlit.errors import DivergedError

ADVICE = ('Lower the learning rate, warm it up for longer or clip the gradients, and look for '
          'broken labels; torch.autograd.set_detect_anomaly(True) names the operation that a nan '
          'comes from. Checkpoints from before are kept: --resume goes on from the last one.')


def check_losses(losses: Mapping[str, object], where: str, lr: float,
                 device: torch.device | str = 'cpu') -> None:
    """Stop a training whose losses are not finite.

    In a process group, each process has losses of its own: all must call this, and if it raises in
    one, it raises in all.

    Args:
        losses: What a training step returned by name: tensors, lists of tensors, or numbers. Only
            names with 'loss' in them count, as in OpenMMLab's sum of losses, not accuracies.
        where: When it was, such as 'epoch 3, iteration 120'.
        lr: The learning rate of the step.
        device: Where the process group exchanges tensors.

    Raises:
        DivergedError: If one of them is nan or infinite; the message names it.
    """
    values = {name: value for name, value in _flat(losses) if 'loss' in name}
    tensors = [v.detach().float().mean() for v in values.values()]
    finite = bool(torch.stack(tensors).isfinite().all()) if tensors else True
    problem = None
    if not finite:
        problem = ', '.join(f'{name} is {tensor.item():g}'
                            for name, tensor in zip(values, tensors, strict=True))
    problem = _of_any_process(problem, device)
    if problem:
        raise DivergedError(f'the training diverged at {where}, with the learning rate {lr:g}: '
                            f'{problem}. {ADVICE}')


def check_weights(modules: Mapping[str, nn.Module], where: str,
                  device: torch.device | str = 'cpu') -> None:
    """Stop a training before it saves weights that are not finite; collective as `check_losses`.

    Args:
        modules: All that goes into the checkpoint: the model, and its moving average, if any.
        where: When it was.
        device: Where the process group exchanges tensors.

    Raises:
        DivergedError: If one is nan or infinite; the message names it.
    """
    problem = _of_any_process(not_finite(modules), device)
    if problem:
        raise DivergedError(f'the training diverged: {problem} is not finite at {where}, although '
                            f'no loss was nan before; it is not saved. {ADVICE}')


def not_finite(modules: Mapping[str, nn.Module]) -> str | None:
    """The first weight that is nan or infinite, or buffer that is nan, or None.

    Buffers may be infinite on purpose, such as masks of an attention.
    """
    flags = {}
    for owner, module in modules.items():
        for name, value in module.named_parameters():
            flags[f'{name} of {owner}'] = value.detach().isfinite().all()
        for name, value in module.named_buffers():
            flags[f'{name} of {owner}'] = value.isnan().logical_not().all()
    if not flags:
        return None
    # One transfer from the device for all.
    good = torch.stack(list(flags.values())).tolist()
    return next((name for name, ok in zip(flags, good, strict=True) if not ok), None)


def _flat(losses: Mapping[str, object]):
    for name, value in losses.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)):
            for i, part in enumerate(value):
                if isinstance(part, Tensor):
                    yield f'{name}[{i}]', part
        elif isinstance(value, (int, float)):
            yield name, torch.tensor(float(value))


def _of_any_process(problem: str | None, device: torch.device | str) -> str | None:
    """The same answer in all processes: one that stopped alone would leave the others waiting."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return problem
    flag = torch.tensor(int(problem is not None), device=device)
    dist.all_reduce(flag)
    if not flag.item():
        return None
    problems = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next(p for p in problems if p is not None)
