"""Linear layers by oneDNN, which on CPUs outruns the matrix product that torch takes in float32."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import fast, is_plain, on_cpu
from .torch_state import compiling, cpu_autocast

# What torch.compile emits for linear layers on CPUs; it has no backward.
ONEDNN = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available(
) else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, for inference in float32 on a CPU by oneDNN.

    There, ``F.linear`` copies the bias into its output before the product, and MKL reaches 0.7 to
    0.95 of oneDNN's speed for LITv2's shapes. In bfloat16, ``F.linear`` is oneDNN's already.

    Args:
        x: Shape (..., C_in).
        weight: Shape (C_out, C_in).
        bias: Shape (C_out,).

    Returns:
        Shape (..., C_out).
    """
    if _onednn_fits(x, weight, bias):
        return ONEDNN(x.contiguous(), weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


def call_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, through :func:`linear` if that is all that calling it means."""
    if fast() and is_plain(layer, nn.Linear):
        return linear(x, layer.weight, layer.bias)
    return layer(x)


def _onednn_fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    # torch.compile picks its own product, and takes this one for constant weights only.
    return (not compiling()
            and on_cpu(x) and ONEDNN is not None and x.dtype == weight.dtype == torch.float32
            and weight.is_contiguous() and x.numel() > 0
            and not cpu_autocast()
            and not (torch.is_grad_enabled() and (
                x.requires_grad or weight.requires_grad
                or bias is not None and bias.requires_grad)))
