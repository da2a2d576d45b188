"""The feed-forward network of every block, whose depthwise conv is LITv2's position signal."""
import torch.nn.functional as F
from torch import Tensor, nn

from mmlit import ops

from .layers import build_act


class ConvFFN(nn.Module):
    """Linear, depthwise 3x3 convolution, activation, linear (paper section 4).

    Args:
        embed_dims: Channels of input and output.
        hidden_dims: Channels in between.
        act_cfg: Activation config.
        drop_rate: Dropout after the activation and after the last linear.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, act_cfg: dict, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.dwconv = nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1, groups=hidden_dims)
        self.act = build_act(act_cfg)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if ops.fast() and self._is_one_op():
            return ops.conv_ffn(x, *(t for layer in (self.fc1, self.dwconv, self.fc2)
                                     for t in (layer.weight, layer.bias)))
        x = ops.call_linear(self.fc1, x)
        # The permuted view is a channels-last tensor, so the convolution transposes nothing.
        x = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = F.dropout(self.act(x), self.drop_rate, self.training)
        return F.dropout(ops.call_linear(self.fc2, x), self.drop_rate, self.training)

    def _is_one_op(self) -> bool:
        return (not (self.training and self.drop_rate) and ops.is_plain(self.act, nn.GELU)
                and self.act.approximate == 'none' and _has_bias(self.fc1, nn.Linear)
                and _has_bias(self.dwconv, nn.Conv2d) and _has_bias(self.fc2, nn.Linear))


def _has_bias(layer: nn.Module, kind: type) -> bool:
    """Whether the op, which takes biases, can stand for a layer."""
    return ops.is_plain(layer, kind) and layer.bias is not None
