"""Layers whose results want more precision than the model around them has."""
import itertools

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .forms import is_plain
from .torch_state import without_autocast


def call_wide(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` in float32 at least, whatever autocast says and the layer's weights are.

    Args:
        layer: A convolution, or what stands in its place. It is called: its hooks run.
        x: Its input; of float64 the result is float64, too.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with without_autocast(x):
        x = x.to(dtype)
        tensors = itertools.chain(layer.named_parameters(), layer.named_buffers())
        wider = {name: t.to(dtype) for name, t in tensors
                 if t.is_floating_point() and t.dtype != dtype}
        if not wider:
            return layer(x).to(dtype)
        if is_plain(layer, nn.Conv2d):  # the same, for compilers that cannot trace the other way
            return layer._conv_forward(x, wider['weight'], wider.get('bias'))
        return functional_call(layer, wider, (x, )).to(dtype)
