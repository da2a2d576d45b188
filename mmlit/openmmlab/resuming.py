"""What a checkpoint of an mmengine training must hold to go on from it, and what is kept of it."""
import logging
from collections.abc import Iterable, Iterator, Mapping

from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmlit.errors import CheckpointError
from mmlit.resuming import check_optimizer, kept_seed, say_kept

# How far a scheduler is, beside its settings.
PROGRESS = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose', 'best',
            'num_bad_epochs', 'cooldown_counter'}


def keep_seed(cfg: Config, checkpoint: dict) -> None:
    """Give a config the seed of the training that it resumes, for its samplers are built first."""
    randomness = dict(cfg.get('randomness') or {})
    seed = kept_seed(checkpoint, randomness.get('seed'))
    if seed is not None:
        cfg.randomness = dict(randomness, seed=seed)


def check_state(checkpoint: dict, source: str, optim_wrapper: OptimWrapper | OptimWrapperDict,
                schedulers: list | dict | None, model: nn.Module | None) -> None:
    """Check the state of an optimizer and its schedulers before it is loaded, and say which
    settings of the config it replaces.

    Args:
        checkpoint: As :func:`mmlit.resuming.read_training` returned it.
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
            kept += check_optimizer(state, wrapper.optimizer, model,
                                    started=checkpoint['meta']['iter'] > 0)
        kept += _check_schedulers(checkpoint.get('param_schedulers'), schedulers)
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source} cannot be resumed: {e}. --load-from starts a '
                              'new training from its weights.') from None
    say_kept(kept)


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


def _by_name(optim_wrapper) -> Iterator[tuple[str, OptimWrapper]]:
    if isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.items()
    else:
        yield '', optim_wrapper


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
