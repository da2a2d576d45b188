"""HiLo attention: some heads look at fine detail in windows, the rest at a pooled whole."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlit.errors import ArgumentError

from .layers import Linear


class HiLoAttention(nn.Module):
    """HiLo attention (paper section 3.2).

    ``int(num_heads * alpha)`` heads are Lo-Fi: every token queries the average-pooled map. The
    rest are Hi-Fi: self-attention inside non-overlapping windows. Their outputs, each projected
    on its own, are concatenated, Hi-Fi first. With ``window_size=1`` pooling and windows mean
    nothing: all heads are Lo-Fi, which is then ordinary multi-head self-attention.

    Args:
        embed_dims: Channels C of input and output; a multiple of ``num_heads``.
        num_heads: Number of heads, Hi-Fi and Lo-Fi together.
        window_size: Side of the Hi-Fi windows and of the Lo-Fi pooling, in tokens.
        alpha: Share of Lo-Fi heads, in [0, 1].
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop_rate: Dropout of the attention weights.
        proj_drop_rate: Dropout after each output projection.

    Raises:
        ArgumentError: If ``num_heads`` does not divide ``embed_dims``, ``window_size`` is not an
            integer >= 1, or ``alpha`` lies outside [0, 1].
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 window_size: int = 2,
                 alpha: float = 0.9,
                 qkv_bias: bool = True,
                 attn_drop_rate: float = 0.,
                 proj_drop_rate: float = 0.):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ArgumentError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}')
        if not isinstance(window_size, int) or window_size < 1:
            raise ArgumentError(f'window_size={window_size!r}: expected an integer >= 1')
        if not 0 <= alpha <= 1:
            raise ArgumentError(f'alpha={alpha!r}: the share of Lo-Fi heads lies in [0, 1]')
        self.window_size = window_size
        self.head_dims = embed_dims // num_heads
        self.l_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        self.h_heads = num_heads - self.l_heads
        self.attn_drop_rate = attn_drop_rate
        self.proj_drop_rate = proj_drop_rate

        l_dim, h_dim = self.l_heads * self.head_dims, self.h_heads * self.head_dims
        if l_dim:
            self.l_q = Linear(embed_dims, l_dim, bias=qkv_bias)
            self.l_kv = Linear(embed_dims, 2 * l_dim, bias=qkv_bias)
            self.l_proj = Linear(l_dim, l_dim)
        if h_dim:
            self.h_qkv = Linear(embed_dims, 3 * h_dim, bias=qkv_bias)
            self.h_proj = Linear(h_dim, h_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C), for any H and W."""
        _, H, W, _ = x.shape
        s = self.window_size
        # The reference pads with zeros after the norm: padded tokens are keys and values (with
        # the qkv bias) in Hi-Fi windows, and zeros count in the Lo-Fi average.
        padded = F.pad(x, (0, 0, 0, -W % s, 0, -H % s)) if H % s or W % s else x
        outs = []
        if self.h_heads:
            outs.append(self._hifi(padded)[:, :H, :W])
        if self.l_heads:
            outs.append(self._lofi(x, padded))
        return torch.cat(outs, dim=-1) if len(outs) == 2 else outs[0]

    def _hifi(self, x: Tensor) -> Tensor:
        """Self-attention inside each window; sides of ``x`` are multiples of the window."""
        B, H, W, _ = x.shape
        s, heads, d = self.window_size, self.h_heads, self.head_dims
        h, w = H // s, W // s
        qkv = self.h_qkv(x).view(B, h, s, w, s, 3, heads, d)
        # Windows stand beside the heads, not in the batch: CUDA's fused kernels allow only
        # 65,535 entries in the batch dimension.
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, h * w * heads, s * s, d)
        out = self._attend(*qkv.unbind(0))
        out = out.view(B, h, w, heads, s, s, d).permute(0, 1, 4, 2, 5, 3, 6)
        return self._project(self.h_proj, out.reshape(B, H, W, heads * d))

    def _lofi(self, x: Tensor, padded: Tensor) -> Tensor:
        """Attention of every token of ``x`` to the pooled tokens of ``padded``."""
        B, H, W, C = x.shape
        s, heads, d = self.window_size, self.l_heads, self.head_dims
        pooled = padded
        if s > 1:
            pooled = F.avg_pool2d(padded.permute(0, 3, 1, 2), s).permute(0, 2, 3, 1)
        q = self.l_q(x).view(B, H * W, heads, d).transpose(1, 2)
        kv = self.l_kv(pooled.reshape(B, -1, C)).view(B, -1, 2, heads, d).permute(2, 0, 3, 1, 4)
        out = self._attend(q, *kv.unbind(0)).transpose(1, 2)
        return self._project(self.l_proj, out.reshape(B, H, W, heads * d))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        drop = self.attn_drop_rate if self.training else 0.
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop)

    def _project(self, proj: nn.Linear, x: Tensor) -> Tensor:
        return F.dropout(proj(x), self.proj_drop_rate, self.training)
