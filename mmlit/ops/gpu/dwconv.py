"""Depthwise 3x3 convolution, bias and exact GELU in one pass over a channels-last map, and the
linear after them, of which training keeps nothing but that map."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# Of the block that a unit of work computes: lines of the images, channels, columns.
LINES, CHANNELS, STRIP = 16, 32, 8
CHUNKS = 512  # at most so many programs share the units when weights' gradients are summed


@triton.jit
def _read(x, place, mask):
    return tl.load(x + place, mask=mask, other=0.).to(tl.float32)


@triton.jit
def _unit(unit, H, W, C, lines, LINES: tl.constexpr, CHANNELS: tl.constexpr, STRIP: tl.constexpr):
    """Of a unit: its first column; numbers before its lines; where its channels of a column are,
    (lines, channels), and which of them have a line above, are there, and have a line below."""
    strips = tl.cdiv(W, STRIP)
    block = unit // strips
    i = tl.arange(0, LINES)
    line, row = block * LINES + i, (block * LINES + i) % H
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    here = (line < lines)[:, None] & (c < C)[None, :]
    masks = (here & (row > 0)[:, None], here, here & (row < H - 1)[:, None])
    # Numbers inside a unit fit 32 bits, those of the map may not.
    before = block.to(tl.int64) * LINES * W * C
    # Not a scalar: with one, Triton 3.9's interpreter makes masks of integers.
    start = unit % strips * STRIP + tl.zeros((1, 1), tl.int32)
    return start, before, (i * W * C)[:, None] + c[None, :], masks


@triton.jit
def _column(x, place, col, masks, W, C):
    """A column of the lines above, of these, and of those below: zero outside the map."""
    inside = (col >= 0) & (col < W)
    x += col * C
    return (_read(x - W * C, place, masks[0] & inside), _read(x, place, masks[1] & inside),
            _read(x + W * C, place, masks[2] & inside))


@triton.jit
def _kernel_and_bias(weight, bias, C, CHANNELS: tl.constexpr):
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    kernel = ()
    for tap in tl.static_range(9):
        kernel = kernel + (_read(weight, tap * C + c, c < C)[None, :], )
    return kernel, _read(bias, c, c < C)[None, :]


@triton.jit
def _convolve(columns, kernel, acc):
    """Add what the nine taps give for the middle of three columns."""
    for tap in tl.static_range(9):
        acc += columns[tap % 3][tap // 3] * kernel[tap]
    return acc


@triton.jit
def _forward_kernel(x, weight, bias, out, H, W, C, lines, GELU: tl.constexpr, LINES: tl.constexpr,
                    CHANNELS: tl.constexpr, STRIP: tl.constexpr):
    kernel, b = _kernel_and_bias(weight, bias, C, CHANNELS)
    start, before, place, masks = _unit(tl.program_id(0), H, W, C, lines, LINES, CHANNELS, STRIP)
    x += before
    left = _column(x, place, start - 1, masks, W, C)
    middle = _column(x, place, start, masks, W, C)
    for step in tl.static_range(STRIP):  # each column is read once for three
        col = start + step
        right = _column(x, place, col + 1, masks, W, C)
        acc = _convolve((left, middle, right), kernel, tl.zeros((LINES, CHANNELS), tl.float32))
        if GELU:
            acc += b
            acc = 0.5 * acc * (1 + tl.erf(acc * 0.7071067811865476))
        tl.store(out + before + col * C + place, acc.to(out.dtype.element_ty),
                 mask=masks[1] & (col < W))
        left, middle = middle, right


@triton.jit
def _backward_kernel(grad, x, weight, bias, active, g_conv, partial, H, W, C, lines, steps,
                     LINES: tl.constexpr, CHANNELS: tl.constexpr, STRIP: tl.constexpr):
    """The forward pass's output once more; the gradient of the convolution's output; of its weights
    and bias, the sum over ``steps`` units, as rows 0 to 8 and row 9 of ``partial``,
    (chunks, 10, C)."""
    kernel, b = _kernel_and_bias(weight, bias, C, CHANNELS)
    zeros = tl.zeros((LINES, CHANNELS), tl.float32)
    sums = (zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros)
    for step in range(steps):
        start, before, place, masks = _unit(tl.program_id(0) * steps + step, H, W, C, lines, LINES,
                                            CHANNELS, STRIP)
        left = _column(x + before, place, start - 1, masks, W, C)
        middle = _column(x + before, place, start, masks, W, C)
        for i in range(STRIP):
            col = start + i
            right = _column(x + before, place, col + 1, masks, W, C)
            columns = (left, middle, right)
            z = _convolve(columns, kernel, zeros) + b
            share = 0.5 * (1 + tl.erf(z * 0.7071067811865476))
            mask = masks[1] & (col < W)
            at = before + col * C + place
            tl.store(active + at, (z * share).to(active.dtype.element_ty), mask=mask)
            slope = share + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
            g = _read(grad, at, mask) * slope
            tl.store(g_conv + at, g.to(g_conv.dtype.element_ty), mask=mask)
            added = ()
            for tap in tl.static_range(9):
                added = added + (sums[tap] + g * columns[tap % 3][tap // 3], )
            sums = added + (sums[9] + g, )
            left, middle = middle, right
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    for row in tl.static_range(10):
        tl.store(partial + (tl.program_id(0) * 10 + row) * C + c, tl.sum(sums[row], axis=0),
                 mask=c < C)


def _taps(weight: Tensor) -> Tensor:
    """The kernel as (9, C): a program reads a tap of its channels at once."""
    return weight.reshape(-1, 9).t().contiguous()


def _convolution(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    B, H, W, C = x.shape
    out = torch.empty_like(x)
    if out.numel():
        _forward_kernel[_grid(x)](x, weight, bias, out, H, W, C, B * H, GELU=gelu, LINES=LINES,
                                  CHANNELS=CHANNELS, STRIP=STRIP)
    return out


def _grid(x: Tensor) -> tuple[int, int]:
    B, H, W, C = x.shape
    return triton.cdiv(B * H, LINES) * triton.cdiv(W, STRIP), triton.cdiv(C, CHANNELS)


@torch.library.custom_op('mmlit::dwconv_gelu_linear', mutates_args=())
def dwconv_gelu_linear(x: Tensor, dw: Tensor, db: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map (B, H, W, C), kernel (C, 1, 3, 3) and bias (C,), linear (C_out, C) and (C_out,) to a map
    (B, H, W, C_out).

    The convolution's weights may be of another dtype than the map; its sums are float32. The
    backward pass computes the linear's input again, which costs writing it once.
    """
    return F.linear(_convolution(x.contiguous(), _taps(dw), db.contiguous(), gelu=True), weight,
                    bias)


@torch.library.custom_op('mmlit::dwconv_gelu_linear_backward', mutates_args=())
def dwconv_gelu_linear_backward(
        grad: Tensor, x: Tensor, dw: Tensor, db: Tensor,
        weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of map, kernel and its bias, linear and its bias."""
    grad, x = grad.contiguous(), x.contiguous()
    B, H, W, C = x.shape
    if not x.numel():
        return tuple(torch.zeros_like(t) for t in (x, dw, db, weight, weight[:, 0]))
    rows = grad.flatten(0, 2)
    units, channels = _grid(x)
    steps = triton.cdiv(units, CHUNKS)
    chunks = triton.cdiv(units, steps)
    active, g_conv = torch.empty_like(x), torch.empty_like(x)
    partial = x.new_empty(chunks, 10, C, dtype=torch.float32)
    taps = _taps(dw)
    _backward_kernel[(chunks, channels)](rows @ weight, x, taps, db.contiguous(), active, g_conv,
                                         partial, H, W, C, B * H, steps, LINES=LINES,
                                         CHANNELS=CHANNELS, STRIP=STRIP)
    sums = partial.sum(dim=0)
    # A convolution's gradient is the convolution with the kernel turned around.
    g_x = _convolution(g_conv, taps.flip(0), db, gelu=False)
    g_dw = sums[:9].t().reshape(dw.shape).to(dw.dtype)
    g_db = sums[9].to(db.dtype, copy=True)  # ops must not return views of one tensor
    return g_x, g_dw, g_db, rows.t() @ active.flatten(0, 2), rows.sum(0)


@dwconv_gelu_linear.register_fake
def _(x, dw, db, weight, bias):
    return x.new_empty(*x.shape[:3], weight.shape[0])


@dwconv_gelu_linear_backward.register_fake
def _(grad, x, dw, db, weight):
    return tuple(t.new_empty(t.shape) for t in (x, dw, db, weight, weight[:, 0]))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:-1])


def _backward(ctx, grad):
    return torch.ops.mmlit.dwconv_gelu_linear_backward(grad, *ctx.saved_tensors)


dwconv_gelu_linear.register_autograd(_backward, setup_context=_save)
