"""Deformable token merging: the step from one stage to the next."""
import torch
from torch import Tensor, nn

from mmlit.ops import call_wide, deform_conv2d

from .layers import BATCH_NORMS, build_act, build_norm
from .tracing import OneStep, one_node


class DeformConv2d(nn.Module):
    """Deformable convolution v1 that predicts its own offsets, on channels-last maps.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel.
        stride: Stride of the kernel.
        padding: Zero padding on each side.
        dilation: Distance of the kernel's taps.
        bias: Whether the convolution has a bias; the one that predicts offsets always has.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 padding: int = 0, dilation: int = 1, bias: bool = True):
        super().__init__()
        self.geometry = dict(stride=stride, padding=padding, dilation=dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, **self.geometry)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-out normal kernel, zero bias and offsets: starts as an ordinary convolution."""
        nn.init.kaiming_normal_(self.weight, mode='fan_out', nonlinearity='relu')
        for p in (self.bias, self.conv_offset.weight, self.conv_offset.bias):
            if p is not None:
                nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H_out, W_out, C_out)."""
        return deform_conv2d(x, self._offset(x), self.weight, self.bias, **self.geometry)

    def _offset(self, x: Tensor) -> Tensor:
        """Offsets (B, H_out, W_out, 2 * k * k), float32 at least: a position in the hundreds
        has a resolution of whole pixels in bfloat16."""
        offset = call_wide(self.conv_offset, x.permute(0, 3, 1, 2))
        return offset.permute(0, 2, 3, 1).contiguous()


class DeformableTokenMerging(OneStep):
    """Halves the map and changes its width (paper section 4, LIT's DTM).

    A deformable convolution with kernel and stride 2, batch norm, activation. An odd last row or
    column is dropped.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels of the output.
        norm_cfg: Norm config: BN or SyncBN.
        act_cfg: Activation config.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict):
        super().__init__()
        self.dconv = DeformConv2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.norm = build_norm(norm_cfg, out_channels, BATCH_NORMS, 'conv_norm_cfg')
        self.act = build_act(act_cfg)

    def example(self) -> Tensor:
        weight = self.dconv.weight
        return weight.new_zeros(1, 6, 10, weight.shape[1])

    @one_node
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H // 2, W // 2, C_out)."""
        x = self.dconv(x).permute(0, 3, 1, 2)
        return self.act(self.norm(x)).permute(0, 2, 3, 1)
