"""The feed-forward network in one op, a tile of tokens at a time.

Its hidden map has four times the channels of the map around it. As a whole it leaves every cache,
and the system must find fresh memory for it in each call; a tile of it stays where it was made.
"""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .forms import by_triton, on_cpu
from .linears import linear
from .torch_state import compiling, cpu_autocast

# Hidden map of one tile: with its neighbours in the pipeline it fits the last-level cache, and is
# large enough for matrix products to run at full speed.
TILE_BYTES = 8 * 2**20


def conv_ffn(x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor, w2: Tensor,
             b2: Tensor) -> Tensor:
    """Linear, depthwise 3x3 convolution, exact GELU, linear (LITv2, paper section 4).

    Args:
        x: Map, shape (B, H, W, C).
        w1: First linear, shape (C_hidden, C), and ``b1``, shape (C_hidden,).
        dw: Depthwise kernel, shape (C_hidden, 1, 3, 3), and ``db``, shape (C_hidden,).
        w2: Last linear, shape (C_out, C_hidden), and ``b2``, shape (C_out,).

    Returns:
        Map, shape (B, H, W, C_out).
    """
    weights = (w1, b1, dw, db, w2, b2)
    if by_triton(x):
        hidden = F.linear(x, w1, b1)  # whose dtype autocast may choose
        return torch.ops.mmlit.dwconv_gelu_linear(hidden, dw, db, w2.to(hidden.dtype),
                                                  b2.to(hidden.dtype))
    if not tiled_fits(x, w1):
        return conv_ffn_reference(x, *weights)
    if dtype := cpu_autocast():
        x, *weights = (t.to(dtype) for t in (x, *weights))
    return (torch.ops.mmlit.conv_ffn if _needs_op() else _forward)(x, *weights)


def conv_ffn_reference(x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor, w2: Tensor,
                       b2: Tensor) -> Tensor:
    """The plain form."""
    return F.linear(F.gelu(_depthwise(F.linear(x, w1, b1), dw, db)), w2, b2)


def tiled_fits(x: Tensor, w1: Tensor) -> bool:
    """Whether tiles are the form to take.

    In training, tiles recompute the hidden map: a sixth more products, which small maps, in the
    cache anyway, do not win back.
    """
    if not on_cpu(x) or (TILED is None and _needs_op()):
        return False
    trains = torch.is_grad_enabled() and (x.requires_grad or w1.requires_grad)
    return not trains or _hidden_bytes(x, w1) > 2 * TILE_BYTES


def _needs_op() -> bool:
    # Without gradients and compiler, there is no need to pay for the dispatch of a custom op.
    return compiling() or torch.is_grad_enabled()


def _hidden_bytes(x: Tensor, w1: Tensor) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2] * w1.shape[0] * x.element_size()


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # The permuted view is a channels-last tensor, so the convolution transposes nothing.
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=weight.shape[0])
    return x.permute(0, 2, 3, 1)


def _tiles(x: Tensor, hidden: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Cut a map (B, H, W, C) into whole images or, of large ones, bands of rows.

    Yields:
        Images, rows with the neighbours that the convolution reads, rows, and where these lie
        among the former.
    """
    B, H, W, _ = x.shape
    image = H * W * hidden * x.element_size()
    bands = min(-(-image // TILE_BYTES), H)
    rows = -(-H // bands)
    images = max(TILE_BYTES // image, 1)
    for i in range(0, B, images):
        for top in range(0, H, rows):
            bottom = min(top + rows, H)
            above, below = max(top - 1, 0), min(bottom + 1, H)
            yield (slice(i, i + images), slice(above, below), slice(top, bottom),
                   slice(top - above, bottom - above))


def _forward(x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor, w2: Tensor,
             b2: Tensor) -> Tensor:
    out = x.new_empty(*x.shape[:3], w2.shape[0])
    for images, halo, rows, inner in _tiles(x, w1.shape[0]):
        hidden = _depthwise(linear(x[images, halo], w1, b1), dw, db)[:, inner]
        out[images, rows] = linear(torch.ops.aten.gelu_(hidden), w2, b2)
    return out


def _backward(grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor,
              w2: Tensor) -> list[Tensor]:
    """Gradients of x, w1, b1, dw, db, w2, b2; the hidden map is computed again, tile by tile."""
    aten, groups = torch.ops.aten, dw.shape[0]
    w1_t, w2_t = w1.t().contiguous(), w2.t().contiguous()
    # Sums over tiles are kept in float32 at least.
    wide = torch.promote_types(x.dtype, torch.float32)
    grads = [torch.zeros_like(t, dtype=wide) for t in (x, w1, b1, dw, db, w2)]
    grads.append(torch.zeros_like(w2[:, 0], dtype=wide))
    for images, halo, rows, inner in _tiles(x, w1.shape[0]):
        tokens, g_out = x[images, halo], grad[images, rows]
        first = linear(tokens, w1, b1)
        active = _depthwise(first, dw, db)[:, inner]
        g_hidden = aten.gelu_backward(linear(g_out, w2_t), active)
        if halo != rows:  # the neighbours' own outputs belong to other tiles
            margins = inner.start, tokens.shape[1] - inner.stop
            g_hidden = F.pad(g_hidden, (0, 0, 0, 0, *margins))
        g_first, g_dw, g_db = aten.convolution_backward(
            g_hidden.permute(0, 3, 1, 2), first.permute(0, 3, 1, 2), dw, [groups], [1, 1], [1, 1],
            [1, 1], False, [0, 0], groups, [True, True, True])
        g_first = g_first.permute(0, 2, 3, 1)
        g_out, g_rows = g_out.flatten(0, 2), g_first.flatten(0, 2)
        grads[0][images, halo] += linear(g_first, w1_t)
        for total, part in zip(grads[1:], (
                g_rows.t() @ tokens.flatten(0, 2), g_rows.sum(0), g_dw, g_db,
                g_out.t() @ F.gelu(active).flatten(0, 2), g_out.sum(0)), strict=True):
            total += part
    return [g.to(x.dtype) for g in grads]


def _register():
    """Make the tiled form an op that autograd and torch.compile know (torch >= 2.4)."""
    if not hasattr(torch.library, 'custom_op'):
        return None

    @torch.library.custom_op('mmlit::conv_ffn', mutates_args=(), device_types='cpu')
    def op(x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor, w2: Tensor,
           b2: Tensor) -> Tensor:
        return _forward(x, w1, b1, dw, db, w2, b2)

    # The schema is spelled out, for torch 2.4 cannot tell it from list[Tensor].
    @torch.library.custom_op(
        'mmlit::conv_ffn_backward', mutates_args=(), device_types='cpu',
        schema='(Tensor grad, Tensor x, Tensor w1, Tensor b1, Tensor dw, Tensor db, Tensor w2) '
               '-> Tensor[]')
    def backward_op(grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, dw: Tensor, db: Tensor,
                    w2: Tensor) -> list[Tensor]:
        return _backward(grad, x, w1, b1, dw, db, w2)

    @op.register_fake
    def _(x, w1, b1, dw, db, w2, b2):
        return x.new_empty(*x.shape[:3], w2.shape[0])

    @backward_op.register_fake
    def _(grad, x, w1, b1, dw, db, w2):
        return [torch.empty_like(t) for t in (x, w1, b1, dw, db, w2, w2[:, 0])]

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:-1])

    def backward(ctx, grad):
        return tuple(torch.ops.mmlit.conv_ffn_backward(grad.contiguous(), *ctx.saved_tensors))

    op.register_autograd(backward, setup_context=setup_context)
    return op


TILED = _register()
