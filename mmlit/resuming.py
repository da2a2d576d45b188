"""What a checkpoint of a training must hold to go on from it, whichever toolkit wrote it."""
import logging
from numbers import Number
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmlit.checkpoints import read_checkpoint
from mmlit.errors import CheckpointError
from mmlit.work_dir import latest_checkpoint

# Keys of parameter groups that tell one kind of optimizer from another.
KIND = {'betas', 'momentum', 'dampening', 'nesterov', 'alpha', 'rho', 'amsgrad'}
# Keys that choose an implementation, or name weights.
TECHNICAL = {'params', 'param_names', 'param_name', 'group_name', 'foreach', 'fused', 'capturable',
             'differentiable', 'decoupled_weight_decay'}
# Moments with the shape of their weight.
SHAPED = {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'square_avg', 'sum'}
MOST_STEPS = 2**40


def read_training(source: str) -> dict:
    """Read the checkpoint of a training to resume, and check what it says of that training.

    Args:
        source: Path or URL.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If it cannot be read (the message names the newest whole checkpoint beside
            it, if there is one), or holds no state of a training, or one that cannot be.
    """
    try:
        checkpoint = read_checkpoint(source)
    except CheckpointError as e:
        raise CheckpointError(f'{e}{_other_than(source)}') from None
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or not isinstance(checkpoint.get('optimizer'), dict) or not (
            {'epoch', 'iter'} <= meta.keys()):
        raise CheckpointError(f'checkpoint {source} holds weights but no state of a training '
                              '(optimizer, meta.epoch, meta.iter): use --load-from to start a new '
                              'training from it')
    for key in ('epoch', 'iter'):
        count = meta[key]
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < MOST_STEPS:
            raise CheckpointError(f'checkpoint {source}: meta.{key} is {count!r}, which is no '
                                  'count: it is damaged, or not of a training')
    return checkpoint


def kept_seed(checkpoint: dict, given: int | None) -> int | None:
    """The seed of a resumed training: that of its checkpoint, if it names one.

    Args:
        checkpoint: As :func:`read_training` returned it.
        given: The seed asked for, if any.
    """
    seed = (checkpoint.get('meta') or {}).get('seed')
    if not isinstance(seed, int):
        print_log('the checkpoint names no seed: the resumed run draws other random numbers than '
                  'an uninterrupted one', logger='current', level=logging.WARNING)
        return given
    if given is not None and given != seed:
        print_log(f'the seed of the checkpoint, {seed}, is kept; {given} is not used',
                  logger='current', level=logging.WARNING)
    return seed


def check_optimizer(state: dict, optimizer: torch.optim.Optimizer, model: nn.Module | None,
                     started: bool) -> list[str]:
    """Check the state of one optimizer before it is loaded.

    Args:
        state: Its ``state_dict``, from a checkpoint.
        optimizer: The optimizer at hand.
        model: The model, or None where weights are sharded, so that shapes cannot be compared.
        started: Whether the training has taken a step, so that there must be moments.

    Returns:
        The settings that differ, each in words.

    Raises:
        CheckpointError: If moments are missing, not finite, or of other weights, or if it is of
            another kind.
    """
    theirs, ours = state.get('param_groups'), optimizer.param_groups
    moments = state.get('state')
    if not isinstance(theirs, list) or not isinstance(moments, dict):
        raise CheckpointError('its optimizer has no param_groups and state')
    if [len(g['params']) for g in theirs] != [len(g['params']) for g in ours] and model is not None:
        raise CheckpointError(f'its optimizer has {_sizes(theirs)}, this one {_sizes(ours)}')
    kept = {}
    for a, b in zip(theirs, ours, strict=True):
        if (a.keys() ^ b.keys()) & KIND:
            raise CheckpointError('it was trained with another optimizer than '
                                  f'{type(optimizer).__name__}')
        for key, value in _settings(a).items():
            if isinstance(value, Number) and not (value == value and abs(value) < float('inf')):
                raise CheckpointError(f'its optimizer has {key}={value}')
            if key in (own := _settings(b)) and value != own[key]:
                kept[f'{key}={value} (config: {own[key]})'] = None
    by_key = dict(zip((k for g in theirs for k in g['params']),
                      (p for g in ours for p in g['params']), strict=False))
    if started and not moments and any(_has_moments(group) for group in ours):
        raise CheckpointError('the moments of its optimizer are missing')
    for key, values in moments.items():
        _check_moments(key, values, by_key.get(key) if model is not None else None)
    if model is not None and moments:
        _check_complete(moments, by_key, model)
    return list(kept)


def _check_moments(key, values: dict, weight: Tensor | None) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            continue
        if not value.isfinite().all():
            raise CheckpointError(f'{name} of weight {key} in its optimizer is not finite')
        if name in ('step', 'exp_avg_sq') and (value < 0).any():
            raise CheckpointError(f'{name} of weight {key} in its optimizer is negative')
        if weight is not None and name in SHAPED and value.shape != weight.shape:
            raise CheckpointError(f'{name} of weight {key} in its optimizer has the shape '
                                  f'{tuple(value.shape)}, the weight {tuple(weight.shape)}')


def _check_complete(moments: dict, by_key: dict, model: nn.Module) -> None:
    """Refuse moments of a part of the weights, but for layers that take no part in the training."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    held = {names[id(p)]: set(moments[key]) if key in moments else set()
            for key, p in by_key.items() if id(p) in names}
    shapes = {names[id(p)]: p.dim() for p in by_key.values() if id(p) in names}
    usual = {}
    for name, keys in held.items():  # factored moments depend on the number of dimensions
        usual.setdefault(shapes[name], set()).update(keys)
    missing = [n for n, keys in held.items() if not keys]
    partial = [n for n, keys in held.items() if keys and keys != usual[shapes[n]]]
    # A layer that was used has moments of both its weights.
    partial += [n for n in missing if held.get(_sibling(n))]
    if len(missing) * 4 > len(held):
        partial += missing
    if partial:
        raise CheckpointError(f'the moments of {len(set(partial))} of {len(held)} weights in its '
                              f'optimizer are missing, such as those of {partial[0]}')
    if missing:
        print_log(f'the optimizer of the checkpoint has no moments for {len(missing)} weights, such'
                  f' as {missing[0]}: they took no part in the training', logger='current',
                  level=logging.WARNING)


def _sibling(name: str) -> str:
    owner, _, kind = name.rpartition('.')
    return f'{owner}.{dict(weight="bias", bias="weight").get(kind, "")}'


def _has_moments(group: dict) -> bool:
    return bool(group.get('momentum')) or bool({'betas', 'alpha', 'rho'} & group.keys())


def _settings(group: dict) -> dict:
    """Settings of a parameter group, as they were before schedulers changed them."""
    found = {}
    for key, value in group.items():
        if key in TECHNICAL or key.startswith('initial_'):
            continue
        value = group.get(f'initial_{key}', value)
        found[key] = value.item() if isinstance(value, Tensor) and value.numel() == 1 else (
            tuple(value) if isinstance(value, list) else value)
    return found


def say_kept(settings: list[str]) -> None:
    """Warn that settings of a checkpoint replace those of the config."""
    if settings:
        print_log('settings of the checkpoint are kept, those of the config not used: '
                  f'{"; ".join(settings)}. To use the config\'s, start a new training with '
                  '--load-from.', logger='current', level=logging.WARNING)


def _other_than(source: str) -> str:
    """A sentence that names the newest whole checkpoint beside a damaged one."""
    if '://' in source or not Path(source).is_file():
        return ''
    try:
        whole = latest_checkpoint(Path(source).parent)
    except CheckpointError:
        return ''
    return f' The newest whole checkpoint there is {whole}.' if whole else ''


def _sizes(groups: list[dict]) -> str:
    return f'{len(groups)} groups of {sum(len(g["params"]) for g in groups)} weights'
