"""The switch between each op's plain form and its faster ones."""
import functools
import inspect
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError

from . import choice
from .torch_state import (
    compiling,
    compiling_by_name,
    exporting,
    has_hooks,
    transforming,
    watched,
)

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
choice.set_program(_known(os.environ.get('MMLIT_OPS', 'fast'), 'MMLIT_OPS'))


def set_form(form: str) -> None:
    """Choose the forms of ops for the whole program, until the next call.

    'fast', the default, takes faster forms where they are known to be faster; 'reference' takes
    plain ones everywhere; 'triton' is 'fast' with Triton's kernels on CUDA devices, which have
    not been measured there yet. The environment variable ``MMLIT_OPS`` sets what a program starts
    with; inside a block of :class:`use`, the block's form goes first.

    Args:
        form: 'fast', 'reference' or 'triton'.

    Raises:
        ArgumentError: If ``form`` is something else, or 'triton' where triton is not installed.
    """
    choice.set_program(_known(form, 'form'))


class use:
    """Choose the forms of ops for a block of code, as a context manager, or for each call of a
    function, as a decorator.

    Only the thread, or the asynchronous task, that is in the block sees it: other threads have
    the program's form, see :func:`set_form`. Creating the object alone changes nothing, and warns
    if it ends so.

    Args:
        form: As in :func:`set_form`.

    Raises:
        ArgumentError: If ``form`` is not known, or what is decorated is a generator, whose steps
            would leave the form behind in the code around it.
    """

    is_taken = True

    def __init__(self, form: str):
        self.form = _known(form, 'form')
        self.is_taken = False

    def __del__(self) -> None:
        if not self.is_taken:
            warnings.warn(f'use({self.form!r}) changed nothing: it is for `with` and for '
                          f'decorators; set_form({self.form!r}) is for the whole program',
                          stacklevel=2)

    def __enter__(self) -> None:
        self.is_taken = True
        choice.enter(self.form)

    def __exit__(self, *error) -> None:
        choice.leave()

    def __call__(self, function: Callable) -> Callable:
        self.is_taken = True
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ArgumentError(f'use({self.form!r}) decorates functions, and '
                                f'{function.__qualname__} is a generator: enter use() around what '
                                'each of its steps computes')
        if inspect.iscoroutinefunction(function):
            @functools.wraps(function)
            async def run(*args, **kwargs):
                with self:
                    return await function(*args, **kwargs)
        else:
            @functools.wraps(function)
            def run(*args, **kwargs):
                with self:
                    return function(*args, **kwargs)
        return run


def keep_form(function: Callable) -> Callable:
    """``function``, in the form of now whenever it is called, and by whichever thread.

    What activation checkpointing computes again, it computes in the backward pass: outside the
    block that the forward pass was in, and on a GPU in another thread.
    """
    return function if compiling() else use(choice.form)(function)


def _form() -> str:
    return choice.last if compiling_by_name() else choice.form


def fast() -> bool:
    """Whether faster forms may be taken.

    Not while a tool looks at each op (a FLOP counter, say), the model is traced or exported:
    what they see, and write down, are PyTorch's own ops. Nor under forward-mode derivatives and the
    transforms of torch.func, of which the faster forms know nothing.
    """
    if _form() == 'reference' or exporting() or transforming():
        return False
    return compiling() or not watched()


def on_cpu(x: Tensor) -> bool:
    """Whether the forms for CPUs are the ones to take."""
    return x.device.type == 'cpu' and fast()


def by_triton(x: Tensor) -> bool:
    """Whether Triton's kernels are the ones to take: on CUDA, or anywhere in its interpreter."""
    return (_form() == 'triton' and fast() and (x.is_cuda or INTERPRETED)
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16))


def _as_written(kind: type) -> Callable | None:
    """A class's ``forward``, if nobody had replaced torch's own before mmlit was imported."""
    forward = kind.forward
    own = forward.__module__ == kind.__module__ and not hasattr(forward, '__wrapped__')
    return forward if own else None


_CALL = nn.Module.__call__
_FORWARDS = {kind: _as_written(kind) for kind in (
    nn.Linear, nn.Conv2d, nn.GELU, nn.BatchNorm2d, nn.SyncBatchNorm)}
_REPLACED = ('forward', '_conv_forward', '_call_impl', '_compiled_call_impl')
# Parameters of other classes (quantised, distributed) do their own products.
_ORDINARY = (nn.Parameter, Tensor, type(None))


def is_plain(module: nn.Module, kind: type) -> bool:
    """Whether calling ``module`` does what its class says and no more.

    A fused form reads the weights of layers without calling them. It must not where someone has
    changed what a call does (an adapter or a quantiser in the layer's place, a ``forward`` replaced
    on the layer or on its class, parametrisations, weights that are no ordinary tensors) or watches
    it with hooks.

    Args:
        module: A layer.
        kind: The class that it should be of.
    """
    if type(module) is not kind or has_hooks(module):
        return False
    if compiling_by_name():
        return True
    return (kind.forward is _FORWARDS.get(kind, kind.forward)
            and nn.Module.__call__ is _CALL
            and not any(name in module.__dict__ for name in _REPLACED)
            and type(getattr(module, 'weight', None)) in _ORDINARY
            and type(getattr(module, 'bias', None)) in _ORDINARY)
