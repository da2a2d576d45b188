"""What a checkpoint of an mmengine training must hold to go on from it, and what is kept of it."""
import logging
from collections.abc import Iterable, Iterator, Mapping
from numbers import Number
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmlit.checkpoints import read_checkpoint
from mmlit.errors import CheckpointError
from mmlit.work_dir import latest_checkpoint

# Keys of parameter groups that tell one kind of optimizer from another.
KIND = {'betas', 'momentum', 'dampening', 'nesterov', 'alpha', 'rho', 'amsgrad'}
# Keys that choose an implementation, or name weights.
TECHNICAL = {'params', 'param_names', 'param_name', 'group_name', 'foreach', 'fused', 'capturable',
             'differentiable', 'decoupled_weight_decay'}
# How far a scheduler is, beside its settings.
PROGRESS = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose', 'best',
            'num_bad_epochs', 'cooldown_counter'}
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


def keep_seed(cfg: Config, checkpoint: dict) -> None:
    """Give a config the seed of the training that it resumes, for its samplers are built first."""
    seed = (checkpoint.get('meta') or {}).get('seed')
    randomness = dict(cfg.get('randomness') or {})
    if seed is None:
        print_log('the checkpoint names no seed: the resumed run draws other random numbers than '
                  'an uninterrupted one', logger='current', level=logging.WARNING)
        return
    given = randomness.get('seed')
    if given is not None and given != seed:
        print_log(f'the seed of the checkpoint, {seed}, is kept; {given} is not used',
                  logger='current', level=logging.WARNING)
    cfg.randomness = dict(randomness, seed=seed)


def check_state(checkpoint: dict, source: str, optim_wrapper: OptimWrapper | OptimWrapperDict,
                schedulers: list | dict | None, model: nn.Module | None) -> None:
    """Check the state of an optimizer and its schedulers before it is loaded, and say which
    settings of the config it replaces.

    Args:
        checkpoint: As :func:`read_training` returned it.
        source: Its path, for messages.
        optim_wrapper: The built optimizer, or several by name.
        schedulers: The built schedulers, or lists of them by the name of their optimizer.
        model: The model, or None where weights are sharded, so that shapes cannot be compared.

    Raises:
        CheckpointError: If moments are missing, not finite, or of other weights; or if optimizer or
            schedulers are of another kind.
    """
    kept = []
    try:
        theirs = checkpoint['optimizer']
        for name, wrapper in _by_name(optim_wrapper):
            state = theirs.get(name) if name else theirs
            if not isinstance(state, dict):
                raise CheckpointError(f'it has no state of the optimizer {name!r}')
            kept += _check_optimizer(state, wrapper.optimizer, model,
                                     started=checkpoint['meta']['iter'] > 0)
        kept += _check_schedulers(checkpoint.get('param_schedulers'), schedulers)
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source} cannot be resumed: {e}. --load-from starts a '
                              'new training from its weights.') from None
    if kept:
        print_log('settings of the checkpoint are kept, those of the config not used: '
                  f'{"; ".join(kept)}. To use the config\'s, start a new training with '
                  '--load-from.', logger='current', level=logging.WARNING)


def check_hooks(checkpoint: dict, source: str, hooks: Iterable[Hook]) -> None:
    """Check that the moving average comes back, and name hooks whose state does not.

    Raises:
        CheckpointError: If the training at hand has a moving average and the checkpoint none, or
            the other way round: the weights that were trained would be lost.
    """
    averages = any(isinstance(hook, EMAHook) for hook in hooks)
    if averages != ('ema_state_dict' in checkpoint):
        has, lacks = ('the config', 'the checkpoint') if averages else (
            'the checkpoint', 'the config')
        raise CheckpointError(f'checkpoint {source} cannot be resumed: {has} has a moving average '
                              f'of the weights (EMAHook), {lacks} has none. --load-from starts a '
                              'new training from its weights.')
    forgetful = [type(hook).__name__ for hook in hooks
                 if isinstance(hook, EarlyStoppingHook) or type(hook).__name__ == 'SwAVHook']
    if forgetful:
        print_log(f'{", ".join(forgetful)} starts anew: checkpoints do not hold its state',
                  logger='current', level=logging.WARNING)


def say_stateful_transforms(dataset) -> None:
    """Name the transforms that keep samples, which no checkpoint holds."""
    found = sorted({type(t).__name__ for t in _transforms(dataset) if _keeps_samples(t)})
    if found:
        print_log(f'{", ".join(found)} of the training pipeline keeps images of earlier batches, '
                  'which checkpoints do not hold: the resumed run will not equal an uninterrupted '
                  'one bit for bit', logger='current', level=logging.WARNING)


def _other_than(source: str) -> str:
    """A sentence that names the newest whole checkpoint beside a damaged one."""
    if '://' in source or not Path(source).is_file():
        return ''
    try:
        whole = latest_checkpoint(Path(source).parent)
    except CheckpointError:
        return ''
    return f' The newest whole checkpoint there is {whole}.' if whole else ''


def _by_name(optim_wrapper) -> Iterator[tuple[str, OptimWrapper]]:
    if isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.items()
    else:
        yield '', optim_wrapper


def _check_optimizer(state: dict, optimizer: torch.optim.Optimizer, model: nn.Module | None,
                     started: bool) -> list[str]:
    """Check one optimizer's state; return the settings that differ."""
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


def _check_schedulers(theirs, ours) -> list[str]:
    """Compare schedulers; return the settings that differ."""
    if isinstance(ours, Mapping):
        theirs = theirs if isinstance(theirs, Mapping) else {}
        return [line for name in ours for line in _check_schedulers(theirs.get(name), ours[name])]
    ours, theirs = ours or [], theirs or []
    if len(ours) != len(theirs):
        raise CheckpointError(f'it has {len(theirs)} param_scheduler, the config {len(ours)}')
    kept = []
    for i, (state, scheduler) in enumerate(zip(theirs, ours, strict=True)):
        own = scheduler.state_dict()
        differ = [f'{key}={state[key]!r} (config: {value!r})' for key, value in own.items()
                  if key not in PROGRESS and key in state and not callable(value)
                  and state[key] != value]
        alien = (state.keys() ^ own.keys()) - PROGRESS
        if alien:
            differ.append(f'another type, for only one has {", ".join(sorted(alien))}')
        if differ:
            kept.append(f'param_scheduler[{i}] {", ".join(differ)}')
    return kept


def _sizes(groups: list[dict]) -> str:
    return f'{len(groups)} groups of {sum(len(g["params"]) for g in groups)} weights'


def _transforms(dataset) -> Iterator[object]:
    """All transforms of a data set and of those that it wraps, nested ones too."""
    waiting, seen = [dataset], set()
    while waiting:
        item = waiting.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            waiting.extend(item)
            continue
        yield item
        for key in ('dataset', 'datasets', 'pipeline', 'transforms'):
            inner = getattr(item, key, None)
            if inner is not None and not isinstance(inner, (str, dict)):
                waiting.append(inner)


def _keeps_samples(transform) -> bool:
    """Whether it has a cache, as ``results_cache`` of CachedMosaic and CachedMixUp."""
    return any('cache' in name and isinstance(value, (list, dict))
               for name, value in getattr(transform, '__dict__', {}).items())
