"""HiLo and timm's attention layers behind one interface: (B, H, W, C) to the same shape."""
from collections.abc import Callable

from torch import Tensor, nn

from mmlit.errors import ArgumentError
from mmlit.models import HiLoAttention


class OnTokens(nn.Module):
    """A layer that takes tokens (B, N, C), with the size of their map where it asks for it."""

    def __init__(self, layer: nn.Module, with_size: bool):
        super().__init__()
        self.layer = layer
        self.with_size = with_size

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        args = (size, ) if self.with_size else ()
        return self.layer(x.flatten(1, 2), *args).view(x.shape)


class SwinAttention(nn.Module):
    """The attention of a Swin block, whose windows the block cuts, pads and shifts."""

    def __init__(self, dim: int, heads: int, size: tuple[int, int], shift: int):
        super().__init__()
        block = _timm('swin_transformer').SwinTransformerBlock(
            dim, size, heads, window_size=7, shift_size=shift)
        block.norm1 = block.norm2 = block.mlp = nn.Identity()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block._attn(x)


def _timm(module: str):
    try:
        return __import__(f'timm.models.{module}', fromlist=['timm'])
    except ImportError as e:
        raise ArgumentError(f'the layers to compare with need timm and torchvision: {e}') from None


def _hilo(dim, heads, size):
    return HiLoAttention(dim, heads, window_size=2, alpha=0.9)


def _mhsa(dim, heads, size):
    return OnTokens(_timm('vision_transformer').Attention(dim, heads, qkv_bias=True), False)


def _sra(dim, heads, size):
    return OnTokens(_timm('pvt_v2').Attention(dim, heads, sr_ratio=2), True)


def _linear_sra(dim, heads, size):
    return OnTokens(_timm('pvt_v2').Attention(dim, heads, linear_attn=True), True)


def _window(dim, heads, size):
    return SwinAttention(dim, heads, size, shift=0)


def _shifted_window(dim, heads, size):
    return SwinAttention(dim, heads, size, shift=3)


def _twins(dim, heads, size):
    """A layer of each kind, which take turns in Twins-SVT."""
    twins = _timm('twins')
    return nn.Sequential(OnTokens(twins.LocallyGroupedAttn(dim, heads, ws=7), True),
                         OnTokens(twins.GlobalSubSampleAttn(dim, heads, sr_ratio=2), True))


def _xca(dim, heads, size):
    return OnTokens(_timm('xcit').XCA(dim, heads, qkv_bias=True), False)


class FocalModulation(nn.Module):
    """FocalNet's successor of focal attention, which timm does not have, on channels-last maps."""

    def __init__(self, dim: int):
        super().__init__()
        self.layer = _timm('focalnet').FocalModulation(dim, focal_window=3, focal_level=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _focal(dim, heads, size):
    return FocalModulation(dim)


# By name: builders that take channels, heads and the map's size in tokens. PVT's reduction by 2 and
# the windows of 7 are those of these models in the stage with 14 x 14 tokens.
LAYERS: dict[str, Callable[[int, int, tuple[int, int]], nn.Module]] = {
    'HiLo': _hilo,
    'MHSA': _mhsa,
    'SRA (PVT)': _sra,
    'linear SRA (PVTv2)': _linear_sra,
    'window (Swin)': _window,
    'shifted window (Swin)': _shifted_window,
    'local + global (Twins)': _twins,
    'XCA (XCiT)': _xca,
    'focal modulation (FocalNet)': _focal,
}
