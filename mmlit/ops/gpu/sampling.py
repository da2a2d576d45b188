"""Bilinear reading of a channels-last map at the places that a deformable convolution asks for."""
import torch
import triton
import triton.language as tl
from torch import Tensor

READS, CHANNELS = 16, 64  # of the block that a program computes


@triton.jit
def _place(offset, r, in_r, H, W, H_out, W_out, taps, kw, stride, padding, dilation):
    """Of reads ``r`` of (B, H_out, W_out, taps): image, upper left pixel, and where between it and
    its neighbours."""
    tap, q = r % taps, r // taps
    y = tl.load(offset + 2 * r, mask=in_r, other=0.).to(tl.float32)
    x = tl.load(offset + 2 * r + 1, mask=in_r, other=0.).to(tl.float32)
    y += (q // W_out % H_out * stride - padding + tap // kw * dilation).to(tl.float32)
    x += (q % W_out * stride - padding + tap % kw * dilation).to(tl.float32)
    # Beyond one pixel outside nothing is read; clamped, huge offsets stay within integers.
    y = tl.minimum(tl.maximum(y, -2.), H + 1.)
    x = tl.minimum(tl.maximum(x, -2.), W + 1.)
    y0, x0 = tl.floor(y), tl.floor(x)
    return q // (W_out * H_out), y0.to(tl.int32), x0.to(tl.int32), y - y0, x - x0


@triton.jit
def _numbers(pixel, c, C):
    """Where channels ``c`` of pixels lie; their numbers may need more than 32 bits."""
    return pixel.to(tl.int64)[:, None] * C + c[None, :]


@triton.jit
def _forward_kernel(x, offset, out, H, W, C, H_out, W_out, total, taps, kw, stride, padding,
                    dilation, READS: tl.constexpr, CHANNELS: tl.constexpr):
    r = tl.program_id(0) * READS + tl.arange(0, READS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    in_r, in_c = r < total, c < C
    image, top, left, ly, lx = _place(offset, r, in_r, H, W, H_out, W_out, taps, kw, stride,
                                      padding, dilation)
    acc = tl.zeros((READS, CHANNELS), tl.float32)
    for corner in tl.static_range(4):
        down, right = corner // 2, corner % 2
        row, col = top + down, left + right
        share = (down * ly + (1 - down) * (1 - ly)) * (right * lx + (1 - right) * (1 - lx))
        inside = in_r & (row >= 0) & (row < H) & (col >= 0) & (col < W)
        v = tl.load(x + _numbers((image * H + row) * W + col, c, C),
                    mask=inside[:, None] & in_c[None, :], other=0.)
        acc += v.to(tl.float32) * share[:, None]
    tl.store(out + _numbers(r, c, C), acc.to(out.dtype.element_ty),
             mask=in_r[:, None] & in_c[None, :])


@triton.jit
def _backward_kernel(grad, x, offset, g_x, g_offset, H, W, C, H_out, W_out, total, taps, kw,
                     stride, padding, dilation, READS: tl.constexpr, CHANNELS: tl.constexpr):
    r = tl.program_id(0) * READS + tl.arange(0, READS)
    in_r = r < total
    image, top, left, ly, lx = _place(offset, r, in_r, H, W, H_out, W_out, taps, kw, stride,
                                      padding, dilation)
    g_y, g_z = tl.zeros((READS, ), tl.float32), tl.zeros((READS, ), tl.float32)
    for start in range(0, C, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        in_c = c < C
        g = tl.load(grad + _numbers(r, c, C), mask=in_r[:, None] & in_c[None, :],
                    other=0.).to(tl.float32)
        for corner in tl.static_range(4):
            down, right = corner // 2, corner % 2
            row, col = top + down, left + right
            share_y = down * ly + (1 - down) * (1 - ly)
            share_x = right * lx + (1 - right) * (1 - lx)
            inside = in_r & (row >= 0) & (row < H) & (col >= 0) & (col < W)
            mask = inside[:, None] & in_c[None, :]
            place = _numbers((image * H + row) * W + col, c, C)
            tl.atomic_add(g_x + place, g * (share_y * share_x)[:, None], mask=mask)
            v = tl.load(x + place, mask=mask, other=0.).to(tl.float32)
            along = tl.sum(g * v, axis=1)
            g_y += (2 * down - 1) * share_x * along
            g_z += (2 * right - 1) * share_y * along
    tl.store(g_offset + 2 * r, g_y.to(g_offset.dtype.element_ty), mask=in_r)
    tl.store(g_offset + 2 * r + 1, g_z.to(g_offset.dtype.element_ty), mask=in_r)


def _sizes(x: Tensor, offset: Tensor) -> tuple[int, ...]:
    """H, W, C, H_out, W_out, and the numbers of reads and of taps."""
    _, H_out, W_out, twice_taps = offset.shape
    return *x.shape[1:], H_out, W_out, offset.numel() // 2, twice_taps // 2


@torch.library.custom_op('mmlit::bilinear_gather', mutates_args=())
def bilinear_gather(x: Tensor, offset: Tensor, kernel_width: int, stride: int, padding: int,
                    dilation: int) -> Tensor:
    """Map (B, H, W, C) and offsets (B, H_out, W_out, 2 * taps) to (B, H_out, W_out, taps * C).

    Zero outside the map; offsets as in :func:`mmlit.ops.deform_conv2d`. The map's gradient is
    summed by atomic additions, in no fixed order.
    """
    x, offset = x.contiguous(), offset.contiguous()
    B, _, _, C = x.shape
    sizes = _sizes(x, offset)
    out = x.new_empty(*offset.shape[:3], sizes[-1] * C)
    if out.numel():
        grid = triton.cdiv(sizes[-2], READS), triton.cdiv(C, CHANNELS)
        _forward_kernel[grid](x, offset, out, *sizes, kernel_width, stride, padding, dilation,
                              READS=READS, CHANNELS=CHANNELS)
    return out


@torch.library.custom_op('mmlit::bilinear_gather_backward', mutates_args=())
def bilinear_gather_backward(grad: Tensor, x: Tensor, offset: Tensor, kernel_width: int,
                             stride: int, padding: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Gradients of map and offsets."""
    grad, x, offset = grad.contiguous(), x.contiguous(), offset.contiguous()
    g_x, g_offset = torch.zeros_like(x, dtype=torch.float32), torch.zeros_like(offset)
    if grad.numel():
        sizes = _sizes(x, offset)
        _backward_kernel[(triton.cdiv(sizes[-2], READS), )](
            grad, x, offset, g_x, g_offset, *sizes, kernel_width, stride, padding, dilation,
            READS=READS, CHANNELS=CHANNELS)
    # Not g_x itself: outputs of an op must not depend on the dtype in whether they are new.
    return g_x.to(x.dtype), g_offset


@bilinear_gather.register_fake
def _(x, offset, kernel_width, stride, padding, dilation):
    return x.new_empty(*offset.shape[:3], offset.shape[3] // 2 * x.shape[3])


@bilinear_gather_backward.register_fake
def _(grad, x, offset, kernel_width, stride, padding, dilation):
    return x.new_empty(x.shape), offset.new_empty(offset.shape)


def _save(ctx, inputs, output):
    x, offset, *ctx.geometry = inputs
    ctx.save_for_backward(x, offset)


def _backward(ctx, grad):
    grads = torch.ops.mmlit.bilinear_gather_backward(grad, *ctx.saved_tensors, *ctx.geometry)
    return *grads, None, None, None, None


bilinear_gather.register_autograd(_backward, setup_context=_save)
