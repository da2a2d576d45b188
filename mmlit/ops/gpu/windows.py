"""Hi-Fi's attention inside windows, read from and written to channels-last maps in place.

A program takes as many whole windows as fit 16 tokens (four of 2x2, one of 4x4; the least that a
matrix product of the tensor cores takes) and masks what lies between them.
"""
import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tokens(total, H, W, s, TOKENS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr):
    """The window of each of this program's tokens, its place in the map, and whether it is one."""
    t = tl.arange(0, TOKENS)
    window = tl.program_id(0) * GROUP + t // SIZE
    valid = (t < GROUP * SIZE) & (window < total)
    w, h = W // s, H // s
    row = window // w % h * s + t % SIZE // s
    col = window % w * s + t % SIZE % s
    # The token's number fits 32 bits, those of its channels may not.
    return window, ((window // (w * h) * H + row) * W + col).to(tl.int64), valid


@triton.jit
def _channels(valid, D: tl.constexpr, DIMS: tl.constexpr):
    """This program's channels of a map, those of one head, (1, DIMS), and where (tokens, DIMS) it
    has any."""
    d = tl.arange(0, DIMS)
    return (tl.program_id(1) * D + d)[None, :], valid[:, None] & (d < D)[None, :]


@triton.jit
def _load(place, mask):
    return tl.load(place, mask=mask, other=0.).to(tl.float32)


@triton.jit
def _probabilities(q, k, window, valid, scale, PRECISION: tl.constexpr):
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    same = (window[:, None] == window[None, :]) & valid[:, None] & valid[None, :]
    # Finite, so that rows without any token stay finite, too.
    logits = tl.where(same, logits, -1e30)
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return p / tl.sum(p, axis=1)[:, None]


@triton.jit
def _forward_kernel(qkv, out, total, H, W, C, s, scale, D: tl.constexpr, DIMS: tl.constexpr,
                    TOKENS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr,
                    PRECISION: tl.constexpr):
    window, token, valid = _tokens(total, H, W, s, TOKENS, GROUP, SIZE)
    channel, mask = _channels(valid, D, DIMS)
    place = token[:, None] * (3 * C) + channel
    q = _load(qkv + place, mask)
    k = _load(qkv + place + C, mask)
    v = _load(qkv + place + 2 * C, mask)
    p = _probabilities(q, k, window, valid, scale, PRECISION)
    o = tl.dot(p, v, input_precision=PRECISION)
    tl.store(out + token[:, None] * C + channel, o.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(grad, qkv, g_qkv, total, H, W, C, s, scale, D: tl.constexpr,
                     DIMS: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr,
                     SIZE: tl.constexpr, PRECISION: tl.constexpr):
    window, token, valid = _tokens(total, H, W, s, TOKENS, GROUP, SIZE)
    channel, mask = _channels(valid, D, DIMS)
    place = token[:, None] * (3 * C) + channel
    q = _load(qkv + place, mask)
    k = _load(qkv + place + C, mask)
    v = _load(qkv + place + 2 * C, mask)
    g = _load(grad + token[:, None] * C + channel, mask)
    p = _probabilities(q, k, window, valid, scale, PRECISION)
    g_v = tl.dot(tl.trans(p), g, input_precision=PRECISION)
    g_p = tl.dot(g, tl.trans(v), input_precision=PRECISION)
    g_logits = p * (g_p - tl.sum(p * g_p, axis=1)[:, None]) * scale
    g_q = tl.dot(g_logits, k, input_precision=PRECISION)
    g_k = tl.dot(tl.trans(g_logits), q, input_precision=PRECISION)
    tl.store(g_qkv + place, g_q.to(g_qkv.dtype.element_ty), mask=mask)
    tl.store(g_qkv + place + C, g_k.to(g_qkv.dtype.element_ty), mask=mask)
    tl.store(g_qkv + place + 2 * C, g_v.to(g_qkv.dtype.element_ty), mask=mask)


def _launch(kernel, qkv: Tensor, window: int, heads: int, *tensors: Tensor) -> None:
    B, H, W, triple = qkv.shape
    if not qkv.numel():
        return
    C, size = triple // 3, window**2
    D, total = C // heads, B * (H // window) * (W // window)
    tokens = max(16, triton.next_power_of_2(size))
    group = tokens // size
    # The products of TF32 hold every value of half precision, and round those of float32.
    precision = 'ieee' if qkv.dtype == torch.float32 else 'tf32'
    kernel[(triton.cdiv(total, group), heads)](
        *tensors, total, H, W, C, window, D**-0.5, D=D, DIMS=max(16, triton.next_power_of_2(D)),
        TOKENS=tokens, GROUP=group, SIZE=size, PRECISION=precision, num_warps=1)


@torch.library.custom_op('mmlit::hifi_windows', mutates_args=())
def hifi_windows(qkv: Tensor, window: int, heads: int) -> Tensor:
    """Queries, keys and values (B, H, W, 3 * C) to (B, H, W, C), as ``window_attention``."""
    qkv = qkv.contiguous()
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    _launch(_forward_kernel, qkv, window, heads, qkv, out)
    return out


@torch.library.custom_op('mmlit::hifi_windows_backward', mutates_args=())
def hifi_windows_backward(grad: Tensor, qkv: Tensor, window: int, heads: int) -> Tensor:
    """Gradient of queries, keys and values."""
    grad, qkv = grad.contiguous(), qkv.contiguous()
    g_qkv = torch.empty_like(qkv)
    _launch(_backward_kernel, qkv, window, heads, grad, qkv, g_qkv)
    return g_qkv


@hifi_windows.register_fake
def _(qkv, window, heads):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@hifi_windows_backward.register_fake
def _(grad, qkv, window, heads):
    return qkv.new_empty(qkv.shape)


def _save(ctx, inputs, output):
    qkv, ctx.window, ctx.heads = inputs
    ctx.save_for_backward(qkv)


def _backward(ctx, grad):
    (qkv, ) = ctx.saved_tensors
    return torch.ops.mmlit.hifi_windows_backward(grad, qkv, ctx.window, ctx.heads), None, None


hifi_windows.register_autograd(_backward, setup_context=_save)
