"""HiLo attention: some heads look at fine detail in windows, the rest at a pooled whole."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlit import ops
from mmlit.errors import ArgumentError


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
            self.l_q = nn.Linear(embed_dims, l_dim, bias=qkv_bias)
            self.l_kv = nn.Linear(embed_dims, 2 * l_dim, bias=qkv_bias)
            self.l_proj = nn.Linear(l_dim, l_dim)
        if h_dim:
            self.h_qkv = nn.Linear(embed_dims, 3 * h_dim, bias=qkv_bias)
            self.h_proj = nn.Linear(h_dim, h_dim)
        # One linear for the inputs of both, when fused; then the sizes of its parts.
        self.inputs, self.input_dims = None, []

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C), for any H and W."""
        _, H, W, _ = x.shape
        s = self.window_size
        # The reference pads with zeros after the norm: padded tokens are keys and values (with
        # the qkv bias) in Hi-Fi windows, and zeros count in the Lo-Fi average.
        padded = ops.pad_to_multiple(x, s)
        qkv, q, kv = self._project_inputs(x, padded)
        outs = []
        if self.h_heads:
            out = ops.window_attention(qkv, s, self.h_heads, self._dropout())
            outs.append(self._project(self.h_proj, out)[:, :H, :W])
        if self.l_heads:
            outs.append(self._project(self.l_proj, self._attend(q, kv)))
        return torch.cat(outs, dim=-1) if len(outs) == 2 else outs[0]

    def _project_inputs(self, x: Tensor, padded: Tensor) -> tuple[Tensor | None, ...]:
        """Hi-Fi's queries, keys and values of every padded token, Lo-Fi's queries of every token,
        and its keys and values of every pooled token, each a map; None where there are no heads.
        """
        qkv = q = kv = None
        if self.inputs is not None:
            parts = self._project_as_one(x, padded)
            qkv = parts.pop(0) if self.h_heads else None
            q = parts.pop(0)
            kv = parts.pop() if parts else None
        else:
            if self.h_heads:
                qkv = ops.call_linear(self.h_qkv, padded)
            if self.l_heads:
                q = ops.call_linear(self.l_q, x)
        if self.l_heads and kv is None:
            kv = ops.call_linear(self.l_kv, self._pool(padded))
        return qkv, q, kv

    def _project_as_one(self, x: Tensor, padded: Tensor) -> list[Tensor]:
        """The parts of the fused input projection."""
        if padded is x:  # not equal sizes: an exported graph must not ask for them
            return list(ops.call_linear(self.inputs, x).split(self.input_dims, dim=-1))
        if not (ops.fast() and ops.is_plain(self.inputs, nn.Linear)):
            _, H, W, _ = x.shape
            qkv, q = self.inputs(padded).split(self.input_dims, dim=-1)
            return [qkv, q[:, :H, :W]]
        # Padding there is only with windows, where the parts are two: Hi-Fi's, and the queries of
        # Lo-Fi, of which nobody needs those of padded tokens.
        h_dim, (weight, bias) = self.input_dims[0], (self.inputs.weight, self.inputs.bias)
        return [ops.linear(tokens, weight[rows], None if bias is None else bias[rows])
                for tokens, rows in ((padded, slice(h_dim)), (x, slice(h_dim, None)))]

    def _pool(self, x: Tensor) -> Tensor:
        if self.window_size == 1:
            return x
        x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.window_size)
        return x.permute(0, 2, 3, 1).contiguous()

    def _attend(self, q: Tensor, kv: Tensor) -> Tensor:
        """Attention of tokens (B, H, W, l_dim) to pooled ones (B, h, w, 2 * l_dim)."""
        B, H, W, C = q.shape
        heads, d = self.l_heads, self.head_dims
        q = q.reshape(B, H * W, heads, d).transpose(1, 2)
        kv = kv.flatten(1, 2).unflatten(-1, (2, heads, d)).permute(2, 0, 3, 1, 4)
        out = ops.attention(q, *kv.unbind(0), dropout=self._dropout())
        return out.transpose(1, 2).reshape(B, H, W, C)

    def _dropout(self) -> float:
        return self.attn_drop_rate if self.training else 0.

    def _project(self, proj: nn.Linear, x: Tensor) -> Tensor:
        return F.dropout(ops.call_linear(proj, x), self.proj_drop_rate, self.training)
