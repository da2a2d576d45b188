"""What the weights of a file mean beside their shapes, and what a published file keeps."""
from collections.abc import Mapping

from torch import nn

from mmlit.errors import CheckpointError

KEY = 'mmlit'


def describe(model: nn.Module) -> dict:
    """Settings of the LITv2 in a model that change what its weights compute, but not their shapes.

    Args:
        model: A LITv2, or a model with one or several of them.

    Returns:
        For the ``meta`` of a checkpoint: ``{'mmlit': {name: value}}`` of the first LITv2 in it;
        empty if there is none.
    """
    for module in model.modules():
        settings = getattr(module, 'checkpoint_settings', None)
        if settings is not None:
            return {KEY: settings}
    return {}


def differences(model: nn.Module, meta: object) -> list[str]:
    """In which settings a model differs from what a file was made with.

    Args:
        model: The model that its weights go into.
        meta: ``meta`` of the checkpoint. Files of other codebases say nothing of LITv2.

    Returns:
        One sentence part for each.
    """
    theirs = meta.get(KEY) if isinstance(meta, Mapping) else None
    ours = describe(model).get(KEY)
    if not isinstance(theirs, Mapping) or ours is None:
        return []
    return [f'{name} was {theirs[name]!r}, and is {ours[name]!r} here'
            for name in ours if name in theirs and theirs[name] != ours[name]]


def check_same(model: nn.Module, meta: object) -> None:
    """Refuse to go on with a training whose settings the model has otherwise.

    Raises:
        CheckpointError: If there are :func:`differences`.
    """
    differing = differences(model, meta)
    if differing:
        raise CheckpointError(f'it was trained with other settings, with which its weights mean '
                              f'something else: {"; ".join(differing)}. Resume with the same, or '
                              'start a new training from it with --load-from')
