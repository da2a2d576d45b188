"""Filling a model from a checkpoint of any known layout; nothing is left out in silence."""
import logging
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmlit.errors import CheckpointError

from . import meta
from .layouts import State, adapt_channels, around, choose, convert, is_average, select, unwrap
from .reading import read_checkpoint, state_dict_of
from .weights import check_weights

OUTPUT_NORM = re.compile(r'norm\d\.')
FIRST_WEIGHT = 'patch_embed.proj.weight'
COUNT = '.num_batches_tracked'  # which older checkpoints lack
OWN_NAMES = "the model's own"
BACKBONE = re.compile(r'(?:[\w.]*?\.)?backbone\w*\.')
HEADS = ('head.', 'fc.', 'classifier.')  # of models that are no more than a backbone and a head


def load_checkpoint(model: nn.Module, source: str | Path, strict: bool = False,
                    prefix: str | None = None) -> dict:
    """Load a model from a checkpoint of any known layout.

    Backbones are filled wholly, or nothing is. What may differ, unless ``strict``, is reported
    in one line: norms of outputs (an ImageNet model has one, a dense backbone up to four), heads
    and necks that the checkpoint lacks or has in another size, which stay as they are, and the
    channels of the images, from three of them to any other number
    (:func:`mmlit.checkpoints.layouts.adapt_channels`). In a model of several backbones, a student
    and its teacher say, each gets the one of a checkpoint that has only one.

    Names that equal the model's own need no layout: any model may be filled from its own file.

    Args:
        model: A LITv2, or a model with one as ``backbone`` (mmlit's classifier, openmixup's,
            detectors and segmentors); any other, from its own names.
        source: Path or URL of a checkpoint of the official release, openmixup, timm or mmlit.
        strict: Whether every weight must match, as to test or to resume.
        prefix: Takes only names that begin with it, of several backbones say 'teacher.'.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: If the file cannot be read, holds numbers that are not finite in the
            model's dtype, or does not fit; the message names what and why, and the model is as it
            was.
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
        resume: Whether a training goes on: ``strict``, and settings that change what the weights
            mean, but not their shapes, are refused; else a warning names them.
        prefix: As there.
    """
    strict = strict or resume
    weights = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    real = _names_in(weights)
    own = {name: weights[k] for name, k in real.items()}
    notes = []
    try:
        _check_targets(own)
        state = state_dict_of(checkpoint)
        check_weights(state)
        state = unwrap(state, keep=own)
        _check_settings(model, checkpoint, resume, notes)
        layout, state = _in_own_names(select(state, prefix) if prefix else state, own, strict)
        state = _without_averages(state, own, resume, notes)
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None
    expected = own
    if not strict:
        state, expected = _adapt(state, own, notes)
    state = _with_twins(state, own)
    _check_fit(state, expected, source, layout)
    try:
        _check_twins(state, own)
        _copy(model, {real[k]: _as_in_model(k, v, own[k]) for k, v in state.items()})
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None
    message = '; '.join([f'{source}: loaded {len(state)} weights, {layout} layout', *notes])
    print_log(message, logger='current', level=logging.WARNING if notes else logging.INFO)


def _names_in(weights: State) -> dict[str, str]:
    """The names of a model's weights without those of wrappers around it -> with them."""
    plain = list(unwrap(weights, keep=weights))
    if all(k.startswith('module.') for k in plain):
        plain = [k.removeprefix('module.') for k in plain]
    return dict(zip(plain, weights, strict=True))


def _in_own_names(state: State, own: Mapping[str, Tensor], strict: bool) -> tuple[str, State]:
    """Bring a checkpoint into the names of the model.

    Args:
        state: The checkpoint's weights.
        own: The model's.
        strict: Whether each backbone of the model must have one of its own in the checkpoint.

    Returns:
        What the names were; the weights.
    """
    prefixes = _backbones(own)
    is_lit = [p for p in prefixes if p + FIRST_WEIGHT in own]
    layout = 'mmlit' if is_lit else OWN_NAMES
    core = _core(own, prefixes)
    twins = _twins(own)
    start = _start(state, core, twins)
    if start is not None:
        state = {k.removeprefix(start): v for k, v in state.items()}
        return layout, _rename_heads(state, own)
    if not is_lit:
        backbone = prefixes[0]
        start = backbone and _start(state, [k.removeprefix(backbone) for k in core], {})
        if start is None or not backbone:
            raise CheckpointError(_explain_names(own, state))
        state = {k.removeprefix(start): v for k, v in state.items()}
        return layout, _placed(state, {}, prefixes, own)
    layout, backbone, rest = convert(state)
    if strict:
        is_lit = is_lit[:1]
    if is_lit == ['']:  # a backbone alone, for which heads are no difference
        return layout, {**({} if strict else rest), **backbone}
    return layout, _placed(backbone, rest, is_lit, own)


def _backbones(own: Iterable[str]) -> list[str]:
    """What stands before the names of a model's backbones; first the one that it shows."""
    lit = {k.removesuffix(FIRST_WEIGHT) for k in own if f'.{k}'.endswith(f'.{FIRST_WEIGHT}')}
    others = {m[0] for k in own if (m := BACKBONE.match(k))}
    found = lit | {p for p in others if not any(inner.startswith(p) for inner in lit)}
    return sorted(found, key=lambda p: (p != 'backbone.', p)) or ['']


def _core(own: Mapping[str, Tensor], backbones: list[str]) -> list[str]:
    """Weights of the backbones that every checkpoint of the model has."""
    optional = OUTPUT_NORM if any(p + FIRST_WEIGHT in own for p in backbones) else None
    core = []
    for name in own:
        prefix = next((p for p in backbones if name.startswith(p)), None)
        if prefix is None or name.endswith(COUNT) or is_average(name):
            continue
        inner = name.removeprefix(prefix)
        if optional.match(inner) if optional else not prefix and inner.startswith(HEADS):
            continue
        core.append(name)
    return core


def _start(state: State, core: list[str], twins: Mapping[str, tuple[str, ...]]) -> str | None:
    """What stands in a checkpoint before the names of the model; None if they are not there."""
    for probe in core:
        starts = {k.removesuffix(probe) for k in state if f'.{k}'.endswith(f'.{probe}')}
        starts = [s for s in starts
                  if all(any(s + t in state for t in twins.get(k, (k, ))) for k in core)]
        if starts:
            return '' if '' in starts else choose(starts)
    return None


def _placed(backbone: State, rest: State, prefixes: list[str], own: Mapping[str, Tensor]) -> State:
    """One backbone, and what stood around it, in the place of each backbone of the model."""
    out, placed = {}, set()
    for prefix in prefixes:
        outer = around(prefix)
        around_it = _rename_head(rest, {k.removeprefix(outer) for k in own if k.startswith(outer)})
        for old, name in zip(rest, around_it, strict=True):
            if outer + name in own:
                out[outer + name] = rest[old]
                placed.add(old)
    out.update({k: v for k, v in rest.items() if k not in placed})
    out.update({p + k: v for p in prefixes for k, v in backbone.items()})
    return out


def _without_averages(state: State, own: Mapping[str, Tensor], resume: bool,
                      notes: list[str]) -> State:
    """Leave out the copies of mmcv's EMAHook that a model without the hook has no place for."""
    averages = [k for k in state if k not in own and is_average(k)]
    if averages and resume:
        raise CheckpointError(f'it holds moving averages ({_names(averages)}), for which this '
                              'model has no place: resume with the EMAHook of its training')
    if averages:
        notes.append(f'left out {len(averages)} copies of an EMAHook')
    return {k: v for k, v in state.items() if k not in averages}


def _adapt(state: State, own: State, notes: list[str]) -> tuple[State, State]:
    """Leave aside what may differ; fit the first layer to the images.

    Returns:
        What is to be loaded, and the weights of the model that it has to fill.
    """
    prefixes = _backbones(own)
    core = {*_core(own, prefixes)}
    norms = {p + k for p in prefixes if p + FIRST_WEIGHT in own for k in
             (n.removeprefix(p) for n in (*own, *state) if n.startswith(p)) if OUTPUT_NORM.match(k)}
    for prefix in prefixes:
        name = prefix + FIRST_WEIGHT
        if name in state and name in own and state[name].ndim == 4:
            channels = own[name].shape[1]
            if state[name].shape[1] == 3 != channels:
                state[name] = adapt_channels(state[name], channels)
                how = 'its sum over RGB' if channels == 1 else f'RGB in turn, times 3/{channels}'
                notes.append(f'images have {channels} channels, not 3: {name} is {how}')
    filled = {t for k, twins in _twins(own).items() if k in state for t in twins}
    unused = [k for k in state if k not in own]
    no_output = [k for k in unused if k in norms]
    # What a backbone has no place for is no head: it is of another arch.
    foreign = [k for k in unused if k not in norms and any(
        k.startswith(p) if p else _in_backbone(k, own) for p in prefixes)]
    new = [k for k in own if k not in state and k not in core and k not in filled
           and not k.endswith(COUNT)]
    resized = [k for k in state if k in own and k not in core and k not in norms
               and state[k].shape != own[k].shape]
    if no_output:
        notes.append(f'no output of this model needs {_names(no_output)}')
    if resized:
        theirs, ours = (tuple(t[resized[0]].shape) for t in (state, own))
        notes.append(f'of another size, so left as they were: {_names(resized)} ({theirs} there, '
                     f'{ours} here)')
    if new:
        notes.append(f'not in it, so left as they were: {_names(new)}')
    no_place = [k for k in unused if k not in no_output and k not in foreign]
    if no_place:
        notes.append(f'this model has no place for {_names(no_place)}')
    left = {*no_output, *no_place, *resized, *new}
    return ({k: v for k, v in state.items() if k not in left},
            {k: v for k, v in own.items() if k not in left})


def _in_backbone(name: str, own: State) -> bool:
    """Whether a name is of the backbone, where nothing stands before its names."""
    if FIRST_WEIGHT in own:
        return name.split('.')[0] in {k.split('.')[0] for k in own}
    return not name.startswith(HEADS)


def _twins(own: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """For each weight of a model that has several names, all of them."""
    by_place = defaultdict(list)
    for name, value in own.items():
        if value.numel():
            by_place[value.data_ptr(), value.shape, value.stride(), value.dtype].append(name)
    return {k: tuple(group) for group in by_place.values() if len(group) > 1 for k in group}


def _with_twins(state: State, own: Mapping[str, Tensor]) -> State:
    """Give each weight of several names all of them: a checkpoint may hold one."""
    twins = _twins(own)
    return {t: state.get(t, v) for k, v in state.items() for t in twins.get(k, (k, ))}


def _check_twins(state: State, own: Mapping[str, Tensor]) -> None:
    for name, group in _twins(own).items():
        for other in group:
            if name in state and not torch.equal(state[name], state[other]):
                raise CheckpointError(f'{name} and {other} are one weight in the model and two in '
                                      'it, with different numbers')


def _copy(model: nn.Module, ready: State) -> None:
    """Write weights into a model, all or none of them."""
    own = model.state_dict()
    before = {k: own[k].detach().clone() for k in ready}
    # With the versions of the model's modules, or they would take the names for older ones.
    state = OrderedDict(ready)
    state._metadata = getattr(own, '_metadata', None)
    try:
        unexpected = model.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f'the model does not take {_names(unexpected)}')
    except Exception as e:  # whatever a module's own loading may raise
        with torch.no_grad():
            for name, value in before.items():
                if not torch.equal(own[name], value):
                    own[name].copy_(value)
        reason = str(e).strip().splitlines()
        raise CheckpointError('its weights cannot be copied into the model, which is as it was: '
                              f'{" ".join(line.strip() for line in reason[:3])}') from e


def _explain_names(own: State, state: State) -> str:
    missing = set(own) - set(state)
    return (f'the weights are of another model: it lacks {_names(missing)}, and the model has no '
            f'place for {_names(set(state) - set(own)) or "nothing"}')


def _check_settings(model: nn.Module, checkpoint: dict, resume: bool, notes: list[str]) -> None:
    if resume:
        meta.check_same(model, checkpoint.get('meta'))
    differing = meta.differences(model, checkpoint.get('meta'))
    notes += [f'made with other settings: {"; ".join(differing)}'] if differing else []


def _check_targets(own: State) -> None:
    """Refuse a model whose weights cannot be written."""
    for name, value in own.items():
        if isinstance(value, nn.parameter.UninitializedTensorMixin):
            problem = 'has no shape yet: run the model once first'
        elif value.is_meta:
            problem = 'is on the device meta: model.to_empty(device=...) gives it memory'
        elif value.is_quantized:
            problem = 'is quantized: load the weights before the model is quantized'
        elif value.is_inference() and not torch.is_inference_mode_enabled():
            problem = 'is an inference tensor: build the model outside of torch.inference_mode'
        else:
            continue
        raise CheckpointError(f"the model's {name} cannot be filled: it {problem}")


def _as_in_model(name: str, value: Tensor, own: Tensor) -> Tensor:
    """A weight in the dtype of the model's.

    Raises:
        CheckpointError: If it is then another number, or none.
    """
    value = value.detach()
    if own.is_floating_point() != value.is_floating_point() and own.is_floating_point() or (
            torch.bool in (own.dtype, value.dtype) and own.dtype != value.dtype):
        raise CheckpointError(f'{name} holds {value.dtype}, where the model has {own.dtype}')
    cast = value.to(own.dtype)  # on the CPU, where the checkpoint is
    if not own.is_floating_point():  # a counter or an index
        if not torch.equal(cast.to(value.dtype), value):
            raise CheckpointError(f'{name} holds numbers that {own.dtype} cannot hold')
    elif not cast.isfinite().all():
        why = ('the training that made it had failed, or the file is damaged'
               if not value.isfinite().all() else f'they are too large for {own.dtype}')
        raise CheckpointError(f'{name} hold numbers that are not finite (NaN or infinite): {why}')
    return cast


def _check_fit(state: State, own: State, source, layout: str) -> None:
    missing = {k for k in own if k not in state and not k.endswith(COUNT)}
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
    if all(k.endswith(FIRST_WEIGHT) for k in differing):
        return ('The channels of the images differ: only from three are weights made for another '
                'number, and not to resume or to test.')
    return 'It was made for another arch: compare the arch of the config.'


def _rename_heads(state: State, own: Mapping[str, Tensor]) -> State:
    return dict(zip(_rename_head(state, own), state.values(), strict=True))


def _rename_head(rest: Iterable[str], own: Iterable[str]) -> list[str]:
    """openmixup's heads keep their linear under ``fc``, plain ones do not."""
    theirs_fc = any(k.startswith('head.fc.') for k in rest)
    ours_fc = any(k.startswith('head.fc.') for k in own)
    if theirs_fc == ours_fc or not any(k.startswith('head.') for k in own):
        return list(rest)
    old, new = ('head.fc.', 'head.') if theirs_fc else ('head.', 'head.fc.')
    return [k.replace(old, new, 1) if k.startswith(old) else k for k in rest]


def _names(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    more = f' and {len(keys) - 4} more' if len(keys) > 4 else ''
    return ', '.join(keys[:4]) + more
