"""The switch between each op's plain form and its faster ones."""
import contextlib
import os

import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError

from .torch_state import compiling, exporting, has_hooks, watched

FORMS = ('fast', 'reference', 'triton')


def _known(form: str, source: str) -> str:
    if form not in FORMS:
        raise ArgumentError(f'{source}={form!r}: expected one of {list(FORMS)}')
    if form == 'triton':
        try:
            from . import gpu  # noqa: F401  (registers the ops)
        except (ImportError, AttributeError) as e:
            raise ArgumentError(f'{source}={form!r} needs triton >= 3.3: {e}') from e
    return form


# Triton's own switch, which it reads once.
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
_form = _known(os.environ.get('MMLIT_OPS', 'fast'), 'MMLIT_OPS')


class use(contextlib.ContextDecorator):
    """Choose the forms of ops.

    'fast', the default, takes faster forms where they are known to be faster; 'reference' takes
    plain ones everywhere; 'triton' is 'fast' with Triton's kernels on CUDA devices, which have
    not been measured there yet.

    ``mmlit.ops.use('reference')`` lasts until the next call; as a context manager or a decorator
    it lasts for the block. The environment variable ``MMLIT_OPS`` sets what a program starts with.

    Args:
        form: 'fast', 'reference' or 'triton'.

    Raises:
        ArgumentError: If ``form`` is something else, or 'triton' where triton is not installed.
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
    """Whether faster forms may be taken.

    Not while a tool looks at each op (a FLOP counter, say) or the model is traced or exported:
    what they see, and write down, are PyTorch's own ops.
    """
    if _form == 'reference' or exporting():
        return False
    return compiling() or not watched()


def on_cpu(x: Tensor) -> bool:
    """Whether the forms for CPUs are the ones to take."""
    return x.device.type == 'cpu' and fast()


def by_triton(x: Tensor) -> bool:
    """Whether Triton's kernels are the ones to take: on CUDA, or anywhere in its interpreter."""
    return (_form == 'triton' and fast() and (x.is_cuda or INTERPRETED)
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16))


def is_plain(module: nn.Module, kind: type) -> bool:
    """Whether calling ``module`` does what its class says and no more.

    A fused form reads the weights of several modules without calling them. It must not where
    someone has wrapped one (adapters, parametrisations, quantisation) or watches it with hooks.
    """
    return type(module) is kind and not has_hooks(module)
