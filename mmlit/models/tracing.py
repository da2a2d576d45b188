"""Modules that torch.fx and torch.jit.script take as one step."""
import copy
import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from mmlit.errors import ArgumentError


class OneStep(nn.Module):
    """A module that tools which write models down need not look into.

    What is inside asks for sizes, dtypes and devices, which neither torch.fx nor torch.jit.script
    can follow. Script gets the module's trace, which has one way for all sizes; subclasses say
    with what to trace (:meth:`example`), and give FX a node with :func:`one_node`.
    """

    def example(self) -> Tensor:
        """An input, of any size."""
        raise NotImplementedError

    def __prepare_scriptable__(self) -> torch.jit.ScriptModule:
        return trace(self, self.example())


def one_node(forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable:
    """Make a call of the module one node of the graph, for every tracer of torch.fx."""

    @functools.wraps(forward)
    def wrapped(self, x):
        if isinstance(x, fx.Proxy):
            return x.tracer.create_proxy('call_module', x.tracer.path_of_module(self), (x, ), {})
        return forward(self, x)

    return wrapped


def trace(module: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The trace of a module, for any size and for inference; it has the module's weights.

    Raises:
        ArgumentError: If the module is in training mode, in which the trace would stay.
    """
    if module.training:
        raise ArgumentError('torch.jit.script writes LITv2 down for inference: call eval() first')
    with torch.no_grad(), warnings.catch_warnings():
        # That the checks of images are not in the trace is known: check_scripted.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        return torch.jit.trace(module, example, check_trace=False)


def with_own_children(module: nn.Module) -> nn.Module:
    """A copy that has the same children, of which torch.jit.script may replace some."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()
    return twin


def check_scripted(x: Tensor, training: bool, channels: int, min_size: int) -> None:
    """Refuse in a scripted model what its trace, which holds no conditions, lets pass."""
    if training:
        raise ValueError('a scripted LITv2 is for inference, and cannot be trained')
    if x.shape[1] != channels:
        raise ValueError(f'images have {x.shape[1]} channels, but LITv2 was built with '
                         f'in_channels={channels}')
    if min(x.shape[2], x.shape[3]) < min_size:
        raise ValueError(f'images of {x.shape[2]}x{x.shape[3]} pixels are too small: each side '
                         f'must be at least {min_size}')
