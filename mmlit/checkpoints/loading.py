"""Filling a model from a checkpoint of any known layout; nothing is left out in silence."""
import re
from pathlib import Path

from mmengine.logging import print_log
from torch import Tensor, nn

from mmlit.errors import CheckpointError

from .layouts import convert
from .reading import read_checkpoint, state_dict_of

OUTPUT_NORM = re.compile(r'norm\d\.')


def load_checkpoint(model: nn.Module, source: str | Path) -> dict:
    """Load a whole model, every weight of it.

    Args:
        model: A LITv2, or a model with one as ``backbone`` (mmlit's classifier, openmixup's).
        source: Path or URL of a checkpoint of the official release, openmixup or mmlit.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: If the file cannot be read, or a weight of the model is not in it, or the
            other way round; the message names what and why.
    """
    checkpoint = read_checkpoint(source)
    fill_model(model, checkpoint, source)
    return checkpoint


def fill_model(model: nn.Module, checkpoint: dict, source: str | Path) -> None:
    """Fill a model from a checkpoint that is read; see :func:`load_checkpoint`."""
    layout, backbone, rest = _convert(checkpoint, source)
    if not hasattr(model, 'backbone'):
        _fill(model, backbone, source, layout, strict=True)
        if rest:
            _say(f'{source}: left out {sorted(rest)}, which a backbone has no place for')
        return
    state = {f'backbone.{k}': v for k, v in backbone.items()}
    state.update(_rename_head(rest, model))
    _fill(model, state, source, layout, strict=True)


def load_backbone(backbone: nn.Module, source: str | Path) -> None:
    """Load the backbone of a checkpoint, for transfer to another task.

    Norms of outputs may differ (an ImageNet model has one, a dense backbone up to four): those
    that the checkpoint lacks keep their initial values, and both kinds are reported.

    Raises:
        CheckpointError: If the file cannot be read or any other weight differs.
    """
    layout, state, rest = _convert(read_checkpoint(source), source)
    _fill(backbone, state, source, layout, strict=False)
    if rest:
        _say(f'{source}: left out {len(rest)} weights that are not of the backbone: '
             f'{_names(rest)}')


def _convert(checkpoint: dict, source) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    try:
        return convert(state_dict_of(checkpoint))
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None


def _fill(model: nn.Module, state: dict[str, Tensor], source, layout: str, strict: bool) -> None:
    own = model.state_dict()
    missing = {k for k in own if k not in state and not k.endswith('.num_batches_tracked')}
    unexpected = set(state) - set(own)
    if not strict:
        new = {k for k in missing if OUTPUT_NORM.match(k)}
        unused = {k for k in unexpected if OUTPUT_NORM.match(k)}
        missing, unexpected = missing - new, unexpected - unused
        if new:
            _say(f'{source}: not in the checkpoint, so left as initialised: {_names(new)}')
        if unused:
            _say(f'{source}: no output of this model needs {_names(unused)}')
        state = {k: v for k, v in state.items() if k not in unused}
    wrong = {k: (state[k].shape, own[k].shape) for k in own
             if k in state and state[k].shape != own[k].shape}
    if missing or unexpected or wrong:
        raise CheckpointError(_explain(source, layout, missing, unexpected, wrong))
    model.load_state_dict(state, strict=False)
    _say(f'{source}: loaded {len(state)} weights, {layout} layout')


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


def _rename_head(rest: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """openmixup's heads keep their linear under ``fc``, plain ones do not."""
    theirs_fc = any(k.startswith('head.fc.') for k in rest)
    ours_fc = any(k.startswith('head.fc.') for k in model.state_dict())
    if theirs_fc == ours_fc:
        return rest
    old, new = ('head.fc.', 'head.') if theirs_fc else ('head.', 'head.fc.')
    return {k.replace(old, new, 1): v for k, v in rest.items()}


def _names(keys) -> str:
    keys = sorted(keys)
    more = f' and {len(keys) - 4} more' if len(keys) > 4 else ''
    return ', '.join(keys[:4]) + more


def _say(message: str) -> None:
    print_log(message, logger='current')
