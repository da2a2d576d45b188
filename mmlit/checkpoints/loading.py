"""Filling a model from a checkpoint of any known layout; nothing is left out in silence."""
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmlit.errors import CheckpointError

from . import meta
from .layouts import State, adapt_channels, convert, is_average, unwrap
from .reading import read_checkpoint, state_dict_of

OUTPUT_NORM = re.compile(r'norm\d\.')
FIRST_WEIGHT = 'patch_embed.proj.weight'
MERGING = '.downsample.dconv.'  # in the names of LITv2, and of no other model
OWN_NAMES = "the model's own"


def load_checkpoint(model: nn.Module, source: str | Path, strict: bool = False,
                    prefix: str | None = None) -> dict:
    """Load a model from a checkpoint of any known layout.

    The backbone is filled wholly, or nothing is. What may differ, unless ``strict``, is reported
    in one line: norms of outputs (an ImageNet model has one, a dense backbone up to four), heads
    and necks that the checkpoint lacks or has in another size, which stay as they are, and the
    channels of the images, from three of them to any other number
    (:func:`mmlit.checkpoints.layouts.adapt_channels`).

    Names that equal the model's own need no layout: any model may be filled from its own file.

    Args:
        model: A LITv2, or a model with one as ``backbone`` (mmlit's classifier, openmixup's,
            detectors and segmentors).
        source: Path or URL of a checkpoint of the official release, openmixup, timm or mmlit.
        strict: Whether every weight must match, as to test or to resume.
        prefix: Which backbone of several in the file, such as 'teacher.backbone.'.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: If the file cannot be read, holds numbers that are not finite in the
            model's dtype, or does not fit; the message names what and why.
    """
    checkpoint = read_checkpoint(source)
    fill_model(model, checkpoint, source, strict, prefix=prefix)
    return checkpoint


def fill_model(model: nn.Module, checkpoint: dict, source: str | Path, strict: bool = False,
               resume: bool = False, prefix: str | None = None) -> None:
    """Fill a model from a checkpoint that is read; see :func:`load_checkpoint`.

    Args:
        model: As there.
        checkpoint: What :func:`read_checkpoint` returned.
        source: Where it came from, for messages.
        strict: As there.
        resume: Whether a training goes on: settings that change what the weights mean, but not
            their shapes, are then refused; else a warning names them.
        prefix: As there.
    """
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    notes = []
    try:
        state = state_dict_of(checkpoint)
        _check_settings(model, checkpoint, resume, notes)
        layout, state, expected = _match(own, state, strict, prefix, notes)
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None
    _check_fit(state, expected, source, layout)
    try:
        state = {k: _as_in_model(k, v, own[k]) for k, v in state.items()}
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None
    model.load_state_dict(state, strict=False)
    message = '; '.join([f'{source}: loaded {len(state)} weights, {layout} layout', *notes])
    print_log(message, logger='current', level=logging.WARNING if notes else logging.INFO)


def _match(own: State, state: State, strict: bool, prefix: str | None,
           notes: list[str]) -> tuple[str, State, State]:
    """Name of the layout, the weights to load in the model's names, and those they have to fill."""
    whole = any(k.startswith('backbone.') for k in own)
    start = 'backbone.' if whole else ''
    theirs = _in_own_names(own, state, start) if prefix is None else None
    if theirs is not None:
        layout = 'mmlit' if any(MERGING in k for k in own) else OWN_NAMES
        backbone = {k.removeprefix(start): v for k, v in theirs.items() if k.startswith(start)}
        rest = {k: v for k, v in theirs.items() if whole and not k.startswith(start)}
    elif not any(MERGING in k for k in own):
        raise CheckpointError(_explain_names(own, state))
    else:
        layout, backbone, rest = convert(state, prefix)
    own_backbone = {k.removeprefix(start): v for k, v in own.items() if k.startswith(start)}
    own_rest = {k: v for k, v in own.items() if whole and not k.startswith(start)}
    rest = _rename_head(rest, own_rest)
    if not strict:
        backbone, own_backbone = _adapt_backbone(backbone, own_backbone, notes)
        rest, own_rest = _adapt_rest(rest, own_rest, notes)
    elif not whole:
        rest = {}
    return (layout, {**{start + k: v for k, v in backbone.items()}, **rest},
            {**{start + k: v for k, v in own_backbone.items()}, **own_rest})


def _in_own_names(own: State, state: State, start: str) -> State | None:
    """The weights, if their names are the model's own: those of its backbone at least."""
    needed = {k for k in own if k.startswith(start) and not k.endswith('.num_batches_tracked')}
    for names in (state, unwrap(state), _without_module(unwrap(state))):
        if needed <= set(names):
            # A model without the hook that keeps averages has no place for them.
            return {k: v for k, v in names.items() if k in own or not is_average(k)}
    return None


def _without_module(state: State) -> State:
    return {k.removeprefix('module.'): v for k, v in state.items()}


def _explain_names(own: State, state: State) -> str:
    missing = set(own) - set(state)
    return (f'the weights are of another model: it lacks {_names(missing)}, and the model has no '
            f'place for {_names(set(state) - set(own)) or "nothing"}')


def _check_settings(model: nn.Module, checkpoint: dict, resume: bool, notes: list[str]) -> None:
    differing = meta.differences(model, checkpoint.get('meta'))
    if differing and resume:
        raise CheckpointError(f'it was trained with other settings, with which its weights mean '
                              f'something else: {"; ".join(differing)}. Resume with the same, or '
                              'start a new training from it with --load-from')
    notes += [f'made with other settings: {"; ".join(differing)}'] if differing else []


def _as_in_model(name: str, value: Tensor, own: Tensor) -> Tensor:
    """A weight in the dtype of the model's.

    Raises:
        CheckpointError: If it is then another number, or none.
    """
    if own.is_meta or own.is_inference():
        raise CheckpointError(f"the model's {name} cannot be filled: it is "
                              f'{"on the device meta" if own.is_meta else "an inference tensor"}')
    cast = value.to(own.dtype)  # on the CPU, where the checkpoint is
    if not own.is_floating_point():  # a counter or an index
        if not torch.equal(cast.to(value.dtype), value):
            raise CheckpointError(f'{name} holds numbers that {own.dtype} cannot hold')
    elif not value.is_floating_point():
        raise CheckpointError(f'{name} holds {value.dtype}, where the model has {own.dtype}')
    elif not cast.isfinite().all():
        why = ('the training that made it had failed, or the file is damaged'
               if not value.isfinite().all() else f'they are too large for {own.dtype}')
        raise CheckpointError(f'{name} hold numbers that are not finite (NaN or infinite): {why}')
    return cast


def _adapt_backbone(state: State, own: State, notes: list[str]) -> tuple[State, State]:
    """Leave aside the norms of outputs that only one side has; fit the first layer to the images.

    Returns:
        What is to be loaded, and the weights of the model that it has to fill.
    """
    unused = [k for k in state if k not in own and OUTPUT_NORM.match(k)]
    new = [k for k in own if k not in state and OUTPUT_NORM.match(k)]
    if unused:
        notes.append(f'no output of this model needs {_names(unused)}')
    if new:
        notes.append(f'not in it, so left as they were: {_names(new)}')
    state = {k: v for k, v in state.items() if k not in unused}
    theirs, ours = state.get(FIRST_WEIGHT), own.get(FIRST_WEIGHT)
    if (theirs is not None and ours is not None and theirs.ndim == 4
            and theirs.shape[1] == 3 != ours.shape[1]):
        state[FIRST_WEIGHT] = adapt_channels(theirs, ours.shape[1])
        what = 'its sum over RGB' if ours.shape[1] == 1 else 'that of RGB in turn, scaled'
        notes.append(f'images have {ours.shape[1]} channels, not 3: {FIRST_WEIGHT} is {what}')
    return state, {k: v for k, v in own.items() if k not in new}


def _adapt_rest(state: State, own: State, notes: list[str]) -> tuple[State, State]:
    """Leave aside heads and necks that differ; return as :func:`_adapt_backbone`."""
    unused = [k for k in state if k not in own]
    resized = [k for k in state if k in own and state[k].shape != own[k].shape]
    new = [k for k in own if k not in state and not k.endswith('.num_batches_tracked')]
    if resized:
        theirs, ours = (tuple(t[resized[0]].shape) for t in (state, own))
        notes.append(f'of another size, so left as they were: {_names(resized)} ({theirs} there, '
                     f'{ours} here)')
    if new:
        notes.append(f'not in it, so left as they were: {_names(new)}')
    if unused:
        notes.append(f'this model has no place for {_names(unused)}')
    left = {*unused, *resized, *new}
    return ({k: v for k, v in state.items() if k not in left},
            {k: v for k, v in own.items() if k not in left})


def _check_fit(state: State, own: State, source, layout: str) -> None:
    missing = {k for k in own if k not in state and not k.endswith('.num_batches_tracked')}
    unexpected = set(state) - set(own)
    wrong = {k: (state[k].shape, own[k].shape) for k in own
             if k in state and state[k].shape != own[k].shape}
    if missing or unexpected or wrong:
        raise CheckpointError(_explain(source, layout, missing, unexpected, wrong))


def _explain(source, layout: str, missing: set, unexpected: set, wrong: dict) -> str:
    problems = []
    if missing:
        problems.append(f'it lacks {_names(missing)}')
    if unexpected:
        problems.append(f'the model has no place for {_names(unexpected)}')
    if wrong:
        name, (theirs, ours) = min(wrong.items())
        problems.append(f'{len(wrong)} weights have another shape, such as {name}: '
                        f'{tuple(theirs)} there, {tuple(ours)} here')
    return (f'checkpoint {source} ({layout} layout) does not fit the model: '
            f'{"; ".join(problems)}. {_hint(missing, unexpected, wrong)}')


def _hint(missing: set, unexpected: set, wrong: dict) -> str:
    differing = [*missing, *unexpected, *wrong]
    if all('gamma' in k for k in differing):
        return ('Layer scale differs: set init_values to 0 for a checkpoint without it, above 0 '
                'for one with it.')
    if all(k.startswith('head.') for k in differing):
        return ('The number of classes differs: use the num_classes it was trained with, or take '
                "its backbone alone with init_cfg=dict(type='Pretrained', checkpoint=...).")
    if all('.attn.' in k for k in differing):
        return ('Its heads are split otherwise between Hi-Fi and Lo-Fi: use the alpha and '
                'window_size it was trained with.')
    if all(OUTPUT_NORM.match(k.removeprefix('backbone.')) for k in differing):
        return 'The normed outputs differ: use the out_indices it was trained with.'
    return 'It was made for another arch: compare the arch of the config.'


def _rename_head(rest: State, own: State) -> State:
    """openmixup's heads keep their linear under ``fc``, plain ones do not."""
    theirs_fc = any(k.startswith('head.fc.') for k in rest)
    ours_fc = any(k.startswith('head.fc.') for k in own)
    if theirs_fc == ours_fc:
        return rest
    old, new = ('head.fc.', 'head.') if theirs_fc else ('head.', 'head.fc.')
    return {k.replace(old, new, 1): v for k, v in rest.items()}


def _names(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    more = f' and {len(keys) - 4} more' if len(keys) > 4 else ''
    return ', '.join(keys[:4]) + more
