"""Self-attention inside non-overlapping windows."""
import torch
from torch import Tensor

from .attention import attention, attention_by_products
from .forms import by_triton, on_cpu


def window_attention(qkv: Tensor, window: int, heads: int, dropout: float = 0.) -> Tensor:
    """Multi-head self-attention inside each window (Hi-Fi: paper section 3.2).

    Args:
        qkv: Queries, keys and values of each token, shape (B, H, W, 3 * C), ordered (3, heads,
            C / heads) over channels; H and W are multiples of the window.
        window: Side of a window, in tokens.
        heads: Number of heads.
        dropout: Dropout of attention weights.

    Returns:
        Shape (B, H, W, C).
    """
    if by_triton(qkv) and not dropout and window <= 8:  # a window's logits fit the registers
        return torch.ops.mmlit.hifi_windows(qkv, window, heads)
    B, H, W, C = qkv.shape
    s, d = window, C // 3 // heads
    h, w = H // s, W // s
    qkv = qkv.view(B, h, s, w, s, 3, heads, d)
    # Windows stand beside the heads, not in the batch: CUDA's fused kernels allow only 65,535
    # entries in the batch dimension.
    q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, h * w * heads, s * s, d).unbind(0)
    if on_cpu(q) and not dropout and q.dtype in (torch.float32, torch.bfloat16):
        # Windows are too small for the fused kernel to win anything back: 4 queries, 4 keys.
        out = attention_by_products(q, k, v)
    else:
        out = attention(q, k, v, dropout)
    out = out.view(B, h, w, heads, s, s, d).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(B, H, W, heads * d)
