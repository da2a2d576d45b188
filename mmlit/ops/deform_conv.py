"""Deformable convolution v1 in plain PyTorch, on channels-last maps."""
import torch
import torch.nn.functional as F
from torch import Tensor

from .forms import by_triton
from .linears import linear
from .torch_state import exporting, transforming


def deform_conv2d(x: Tensor,
                  offset: Tensor,
                  weight: Tensor,
                  bias: Tensor | None = None,
                  stride: int = 1,
                  padding: int = 0,
                  dilation: int = 1) -> Tensor:
    """Deformable convolution v1 (Dai et al., arXiv 1703.06211, eq. 2-4), one deformable group.

    A kernel tap reads the map at its usual place plus a learned offset, bilinearly, and zero
    outside the map. Reading is one weighted gather of rows (``embedding_bag``), so a channels-last
    map is never transposed, and any batch size is allowed.

    Args:
        x: Input map, shape (B, H, W, C).
        offset: Offsets in pixels of the input map, shape (B, H_out, W_out, 2 * kh * kw), ordered
            (dy, dx) for each kernel position, row-major. Its dtype is that of the positions:
            pass float32 (or wider) also when ``x`` is half precision.
        weight: Kernel, shape (C_out, C, kh, kw).
        bias: Shape (C_out,).
        stride: Stride of the kernel, in pixels.
        padding: Zero padding on each side, in pixels.
        dilation: Distance of the kernel's taps, in pixels.

    Returns:
        Output map, shape (B, H_out, W_out, C_out).
    """
    kernel = (weight.shape[-2:], stride, padding, dilation)
    # The sums of the kernel's backward pass have no fixed order.
    if by_triton(x) and not torch.are_deterministic_algorithms_enabled():
        sampled = torch.ops.mmlit.bilinear_gather(x, offset, weight.shape[-1], *kernel[1:])
    else:
        sampled = _sample(x, offset, *kernel)
    return linear(sampled, weight.permute(0, 2, 3, 1).flatten(1), bias)


def _sample(x: Tensor, offset: Tensor, kernel_size: tuple[int, int], stride: int, padding: int,
            dilation: int) -> Tensor:
    """What the kernel's taps read, (B, H_out, W_out, kh * kw * C)."""
    B, H, W, C = x.shape
    y, x_pos = _positions(offset, kernel_size, stride, padding, dilation)
    index, coeff = _bilinear(y, x_pos, H, W)
    index = index + torch.arange(B, device=x.device).view(B, 1, 1, 1, 1) * (H * W)
    sampled = _weighted_rows(x.reshape(B * H * W, C), index.view(-1, 4),
                             coeff.view(-1, 4).to(x.dtype))
    return sampled.view(*offset.shape[:3], offset.shape[3] // 2 * C)


def _weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows (R, C), those of ``index`` (N, 4): shape (N, C)."""
    # Other runtimes know no bags, and bags no forward-mode derivatives.
    if exporting() or transforming():
        return sum(rows[i] * w.unsqueeze(1)
                   for i, w in zip(index.unbind(1), weights.unbind(1), strict=True))
    return F.embedding_bag(index, rows, per_sample_weights=weights, mode='sum')


def _positions(offset: Tensor, kernel_size: tuple[int, int], stride: int, padding: int,
               dilation: int) -> tuple[Tensor, Tensor]:
    """Row and column that each kernel tap reads, each (B, H_out, W_out, kh * kw)."""
    B, H_out, W_out, _ = offset.shape
    kh, kw = kernel_size
    offset = offset.view(B, H_out, W_out, kh * kw, 2)

    def grid(n: int) -> Tensor:
        return torch.arange(n, device=offset.device, dtype=offset.dtype)

    tap_y = (grid(kh) * dilation).view(kh, 1).expand(kh, kw).reshape(-1)
    tap_x = (grid(kw) * dilation).view(1, kw).expand(kh, kw).reshape(-1)
    y = (grid(H_out) * stride - padding).view(1, H_out, 1, 1) + tap_y
    x = (grid(W_out) * stride - padding).view(1, 1, W_out, 1) + tap_x
    return y + offset[..., 0], x + offset[..., 1]


def _bilinear(y: Tensor, x: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
    """Flat indices of the four neighbours of each position and their weights, each (..., 4)."""
    # Beyond one pixel outside, a position reads nothing: clamping there changes no result and
    # keeps the integer conversion defined for huge offsets.
    y, x = y.clamp(-2, H + 1), x.clamp(-2, W + 1)
    y0, x0 = y.floor(), x.floor()
    ly, lx = y - y0, x - x0
    y0, x0 = y0.long(), x0.long()
    rows = torch.stack([y0, y0, y0 + 1, y0 + 1], dim=-1)
    cols = torch.stack([x0, x0 + 1, x0, x0 + 1], dim=-1)
    coeff = torch.stack([(1 - ly) * (1 - lx), (1 - ly) * lx, ly * (1 - lx), ly * lx], dim=-1)
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W)
    return rows.clamp(0, H - 1) * W + cols.clamp(0, W - 1), coeff * inside
