"""Filling a model from a checkpoint of any known layout; nothing is left out in silence."""
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mmengine.logging import print_log
from torch import nn

from mmlit.errors import CheckpointError

from .layouts import State, convert
from .reading import read_checkpoint, state_dict_of

OUTPUT_NORM = re.compile(r'norm\d\.')
FIRST_WEIGHT = 'patch_embed.proj.weight'


def load_checkpoint(model: nn.Module, source: str | Path, strict: bool = False) -> dict:
    """Load a model from a checkpoint of any known layout.

    The backbone is filled wholly, or nothing is. What may differ, unless ``strict``, is reported
    in one line: norms of outputs (an ImageNet model has one, a dense backbone up to four), heads
    and necks that the checkpoint lacks or has in another size, which stay as they are, and the
    channels of the images: from three of them to any other number, each new channel's weights are
    the mean over RGB.

    Args:
        model: A LITv2, or a model with one as ``backbone`` (mmlit's classifier, openmixup's,
            detectors and segmentors).
        source: Path or URL of a checkpoint of the official release, openmixup, timm or mmlit.
        strict: Whether every weight must match, as to test or to resume.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: If the file cannot be read, holds numbers that are not finite, or does not
            fit; the message names what and why.
    """
    checkpoint = read_checkpoint(source)
    fill_model(model, checkpoint, source, strict)
    return checkpoint


def fill_model(model: nn.Module, checkpoint: dict, source: str | Path,
               strict: bool = False) -> None:
    """Fill a model from a checkpoint that is read; see :func:`load_checkpoint`."""
    try:
        layout, backbone, rest = convert(state_dict_of(checkpoint))
        _check_finite({**backbone, **rest})
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None
    whole = hasattr(model, 'backbone')
    prefix = 'backbone.' if whole else ''
    own = model.state_dict()
    own_backbone = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    own_rest = {k: v for k, v in own.items() if whole and not k.startswith(prefix)}
    rest = _rename_head(rest, own_rest)

    notes = []
    if not strict:
        backbone, own_backbone = _adapt_backbone(backbone, own_backbone, notes)
        rest, own_rest = _adapt_rest(rest, own_rest, notes)
    elif not whole:
        rest = {}
    state = {**{prefix + k: v for k, v in backbone.items()}, **rest}
    expected = {**{prefix + k: v for k, v in own_backbone.items()}, **own_rest}
    _check_fit(state, expected, source, layout)
    model.load_state_dict(state, strict=False)
    message = '; '.join([f'{source}: loaded {len(state)} weights, {layout} layout', *notes])
    print_log(message, logger='current', level=logging.WARNING if notes else logging.INFO)


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
    if theirs is not None and ours is not None and theirs.shape[1] == 3 != ours.shape[1]:
        state[FIRST_WEIGHT] = theirs.mean(dim=1, keepdim=True).repeat(1, ours.shape[1], 1, 1)
        notes.append(f'images have {ours.shape[1]} channels, not 3: {FIRST_WEIGHT} is its mean '
                     'over RGB for each')
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


def _check_finite(state: State) -> None:
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise CheckpointError(f'{_names(bad)} hold numbers that are not finite (NaN or infinite): '
                              'the training that made it had failed, or the file is damaged')


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
