"""Depthwise 3x3 convolution, bias and exact GELU in one pass over a channels-last map."""
import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 32, 64  # of the block that a program computes
CHUNKS = 512  # at most so many programs share the pixels when weights' gradients are summed


@triton.jit
def _neighbour(x, tap, p, c, row, col, in_p, in_c, H, W, C):
    """What a tap reads at pixels ``p`` and channels ``c``: zero outside the map."""
    dy, dx = tap // 3 - 1, tap % 3 - 1
    inside = in_p & (row + dy >= 0) & (row + dy < H) & (col + dx >= 0) & (col + dx < W)
    return tl.load(x + (p + dy * W + dx)[:, None] * C + c[None, :],
                   mask=inside[:, None] & in_c[None, :], other=0.).to(tl.float32)


@triton.jit
def _convolve(x, weight, acc, p, c, row, col, in_p, in_c, H, W, C):
    """Add the nine taps at pixels ``p`` and channels ``c`` to ``acc``, (pixels, channels)."""
    for tap in tl.static_range(9):
        v = _neighbour(x, tap, p, c, row, col, in_p, in_c, H, W, C)
        k = tl.load(weight + c * 9 + tap, mask=in_c, other=0.)
        acc += v * k.to(tl.float32)[None, :]
    return acc


@triton.jit
def _forward_kernel(x, weight, bias, out, H, W, C, total, GELU: tl.constexpr,
                    PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    p = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    in_p, in_c = p < total, c < C
    acc = tl.zeros((PIXELS, CHANNELS), tl.float32)
    acc = _convolve(x, weight, acc, p, c, p // W % H, p % W, in_p, in_c, H, W, C)
    if GELU:
        acc += tl.load(bias + c, mask=in_c, other=0.).to(tl.float32)[None, :]
        acc = 0.5 * acc * (1 + tl.erf(acc * 0.7071067811865476))
    tl.store(out + p[:, None] * C + c[None, :], acc.to(out.dtype.element_ty),
             mask=in_p[:, None] & in_c[None, :])


@triton.jit
def _backward_kernel(grad, x, weight, bias, g_conv, partial, H, W, C, total, steps,
                     PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Gradient of the convolution's output; of its weights and bias, the sum over ``steps`` blocks
    of pixels, as rows 0 to 8 and row 9 of ``partial``, (chunks, 16, C)."""
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < C
    rows = tl.arange(0, 16)
    b = tl.load(bias + c, mask=in_c, other=0.).to(tl.float32)
    sums = tl.zeros((16, CHANNELS), tl.float32)
    for step in range(steps):
        p = (tl.program_id(0).to(tl.int64) * steps + step) * PIXELS + tl.arange(0, PIXELS)
        in_p = p < total
        row, col = p // W % H, p % W
        place = p[:, None] * C + c[None, :]
        mask = in_p[:, None] & in_c[None, :]
        z = tl.zeros((PIXELS, CHANNELS), tl.float32)
        z = _convolve(x, weight, z, p, c, row, col, in_p, in_c, H, W, C) + b[None, :]
        g = tl.load(grad + place, mask=mask, other=0.).to(tl.float32)
        slope = 0.5 * (1 + tl.erf(z * 0.7071067811865476))
        slope += z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
        g = g * slope
        tl.store(g_conv + place, g.to(g_conv.dtype.element_ty), mask=mask)
        sums += tl.where(rows[:, None] == 9, tl.sum(g, axis=0)[None, :], 0.)
        for tap in tl.static_range(9):
            v = _neighbour(x, tap, p, c, row, col, in_p, in_c, H, W, C)
            sums += tl.where(rows[:, None] == tap, tl.sum(g * v, axis=0)[None, :], 0.)
    tl.store(partial + (tl.program_id(0) * 16 + rows)[:, None] * C + c[None, :], sums,
             mask=in_c[None, :])


def _convolution(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    B, H, W, C = x.shape
    out = torch.empty_like(x)
    if out.numel():
        _forward_kernel[_grid(x)](x, weight, bias, out, H, W, C, B * H * W, GELU=gelu,
                                  PIXELS=PIXELS, CHANNELS=CHANNELS)
    return out


def _grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.numel() // x.shape[3], PIXELS), triton.cdiv(x.shape[3], CHANNELS)


@torch.library.custom_op('mmlit::dwconv_gelu', mutates_args=())
def dwconv_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map (B, H, W, C), kernel (C, 1, 3, 3) and bias (C,) to a map (B, H, W, C).

    Weights may be of another dtype than the map; sums are float32.
    """
    return _convolution(x.contiguous(), weight.contiguous(), bias.contiguous(), gelu=True)


@torch.library.custom_op('mmlit::dwconv_gelu_backward', mutates_args=())
def dwconv_gelu_backward(grad: Tensor, x: Tensor, weight: Tensor,
                         bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of map, kernel and bias."""
    grad, x = grad.contiguous(), x.contiguous()
    B, H, W, C = x.shape
    if not x.numel():
        return torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
    blocks, channels = _grid(x)
    steps = triton.cdiv(blocks, CHUNKS)
    chunks = triton.cdiv(blocks, steps)
    g_conv = torch.empty_like(x)
    partial = x.new_empty(chunks, 16, C, dtype=torch.float32)
    _backward_kernel[(chunks, channels)](grad, x, weight.contiguous(), bias.contiguous(), g_conv,
                                         partial, H, W, C, B * H * W, steps, PIXELS=PIXELS,
                                         CHANNELS=CHANNELS)
    sums = partial.sum(dim=0)
    # A convolution's gradient is the convolution with the kernel turned around.
    g_x = _convolution(g_conv, weight.flip(-1, -2).contiguous(), bias, gelu=False)
    g_weight = sums[:9].t().reshape(weight.shape).to(weight.dtype)
    return g_x, g_weight, sums[9].to(bias.dtype, copy=True)  # ops must not return views of one


@dwconv_gelu.register_fake
def _(x, weight, bias):
    return x.new_empty(x.shape)


@dwconv_gelu_backward.register_fake
def _(grad, x, weight, bias):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return torch.ops.mmlit.dwconv_gelu_backward(grad, *ctx.saved_tensors)


dwconv_gelu.register_autograd(_backward, setup_context=_save)
