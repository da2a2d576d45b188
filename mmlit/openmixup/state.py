"""What a training keeps outside of weights and optimizer: in hooks, and in attributes of the model.

mmcv's checkpoints hold none of it. Here they do, or say what they could not hold.
"""
import copy
from collections.abc import Iterable
from numbers import Number

import torch
from mmcv.runner import Hook
from torch import Tensor, nn

from mmlit.errors import CheckpointError

# Where they stand in the meta of a checkpoint.
HOOKS, ATTRIBUTES, LOST = 'hook_states', 'model_attributes', 'not_saved'
# Hooks that keep what they know in the data set.
IN_DATASET = ('DeepClusterHook', 'DeepClusterAutoMixHook')


class TrainingState:
    """State of a model and of its config's hooks that changes as a training goes on.

    It notes what everything is at the beginning, and then what has become different.

    Args:
        model: The model, unwrapped, after all hooks' ``before_run``.
        hooks: The hooks of the config.
    """

    def __init__(self, model: nn.Module, hooks: Iterable[Hook]):
        self.model, self.hooks = model, list(hooks)
        self.hooks_before = [copy.deepcopy(_plain(vars(hook))) for hook in self.hooks]
        self.attributes_before = {name: _numbers(m) for name, m in model.named_modules()}
        self.others_before = self._others()

    def changes(self) -> dict:
        """What has changed, for the meta of a checkpoint."""
        hooks = [_changed(before, _plain(vars(hook)))
                 for before, hook in zip(self.hooks_before, self.hooks, strict=True)]
        attributes = {name: _changed(self.attributes_before.get(name, {}), _numbers(module))
                      for name, module in self.model.named_modules()}
        others = self._others()
        lost = [name for name in others if others[name] != self.others_before.get(name)]
        return {
            HOOKS: [[type(hook).__name__, state] for hook, state in
                    zip(self.hooks, hooks, strict=True)],
            ATTRIBUTES: {name: changed for name, changed in attributes.items() if changed},
            LOST: [*lost, *(type(h).__name__ for h in self.hooks if type(h).__name__ in IN_DATASET)]
        }

    def restore(self, meta: dict) -> None:
        """Take up the changes of a checkpoint that `check_resumable` has passed."""
        saved = list(meta.get(HOOKS, []))
        for hook in self.hooks:
            found = next((item for item in saved if item[0] == type(hook).__name__), None)
            if found:
                saved.remove(found)
                vars(hook).update(copy.deepcopy(found[1]))
        modules = dict(self.model.named_modules())
        for name, state in meta.get(ATTRIBUTES, {}).items():
            vars(modules[name]).update(state)

    def _others(self) -> dict[str, tuple]:
        """Identities and versions of what no checkpoint holds: tensors that are no buffers, and
        objects that hooks keep."""
        found = {f'{type(module).__name__}.{key}': (id(value), value._version)
                 for module in self.model.modules() for key, value in vars(module).items()
                 if isinstance(value, Tensor)}
        found.update({f'{type(hook).__name__}.{key}': (id(value), 0) for hook in self.hooks
                      for key, value in vars(hook).items() if not _is_plain(value)})
        return found


def check_resumable(checkpoint: dict, source: str, hooks: Iterable[Hook]) -> None:
    """Check that hooks find in a checkpoint what they left there.

    Args:
        checkpoint: A whole checkpoint of a training.
        source: Its path, for messages.
        hooks: The hooks of the config.

    Raises:
        CheckpointError: If hooks or parts of the model keep what it does not hold, or if it holds
            the state of a hook that the config does not have.
    """
    meta = checkpoint['meta']
    names = [type(hook).__name__ for hook in hooks]
    lost = [*meta.get(LOST, []), *(n for n in names if n in IN_DATASET and n not in
                                   meta.get(LOST, []))]
    problem = None
    averages = any(hasattr(hook, '_swap_ema_parameters') for hook in hooks)
    averaged = any(name.startswith('ema_') for name in checkpoint['state_dict'])
    absent = [name for name, state in meta.get(HOOKS, []) if state and name not in names]
    if lost:
        problem = f'checkpoints do not hold what {", ".join(lost)} had become'
    elif averages != averaged:
        has, lacks = ('the config', 'the checkpoint') if averages else (
            'the checkpoint', 'the config')
        problem = f'{has} has a moving average of the weights (EMAHook), {lacks} has none'
    elif absent:
        problem = f'it holds the state of {", ".join(absent)}, which custom_hooks do not have'
    if problem:
        raise CheckpointError(f'checkpoint {source} cannot be resumed: {problem}. --load-from '
                              'starts a new training from its weights.')


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) and not isinstance(v, Tensor) for v in value)
    return value is None or isinstance(value, (str, Number)) or (
        isinstance(value, Tensor) and not isinstance(value, nn.Parameter))


def _plain(state: dict) -> dict:
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in state.items() if _is_plain(v)}


def _numbers(module: nn.Module) -> dict[str, Number]:
    return {k: v.item() if hasattr(v, 'item') else v for k, v in vars(module).items()
            if isinstance(v, Number) and k != 'training' and not k.startswith('_')}


def _changed(before: dict, now: dict) -> dict:
    return {k: v for k, v in now.items() if k not in before or not _same(before[k], v)}


def _same(a, b) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a.cpu(), b.cpu())
    return type(a) is type(b) and a == b
