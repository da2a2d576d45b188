"""The switch between each op's plain form and its faster ones."""
import contextlib
import os

from torch import Tensor, nn

from mmlit.errors import ArgumentError

FORMS = ('fast', 'reference')


def _known(form: str, source: str) -> str:
    if form not in FORMS:
        raise ArgumentError(f'{source}={form!r}: expected one of {list(FORMS)}')
    return form


_form = _known(os.environ.get('MMLIT_OPS', 'fast'), 'MMLIT_OPS')


class use(contextlib.ContextDecorator):
    """Take faster forms where there are any ('fast', the default), or plain ones everywhere.

    ``mmlit.ops.use('reference')`` lasts until the next call; as a context manager or a decorator
    it lasts for the block. The environment variable ``MMLIT_OPS`` sets what a program starts with.

    Args:
        form: 'fast' or 'reference'.

    Raises:
        ArgumentError: If ``form`` is something else.
    """

    def __init__(self, form: str):
        global _form
        self.form = _known(form, 'form')
        self.before, _form = _form, form

    def __enter__(self) -> None:
        global _form
        _form = self.form

    def __exit__(self, *error) -> None:
        global _form
        _form = self.before


def fast() -> bool:
    """Whether faster forms may be taken."""
    return _form == 'fast'


def on_cpu(x: Tensor) -> bool:
    """Whether the forms for CPUs are the ones to take."""
    return _form == 'fast' and x.device.type == 'cpu'


def is_plain(module: nn.Module, kind: type) -> bool:
    """Whether calling ``module`` does what its class says and no more.

    A fused form reads the weights of several modules without calling them. It must not where
    someone has wrapped one (adapters, parametrisations, quantisation) or watches it with hooks.
    """
    return type(module) is kind and not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks)
