"""Norms, activations and stochastic depth, by OpenMMLab's config names."""
import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError

ACT_LAYERS = {
    'GELU': nn.GELU,
    'ReLU': nn.ReLU,
    'LeakyReLU': nn.LeakyReLU,
    'SiLU': nn.SiLU,
    'Swish': nn.SiLU,
    'Hardswish': nn.Hardswish,
}


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, H, W).

    Its output is contiguous: mmcv's compiled ops (RoIAlign, for one) read the memory of a map as
    (B, C, H, W) whatever its strides say.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


# What fits each place that a norm is for.
TOKEN_NORMS = {'LN': nn.LayerNorm}
MAP_NORMS = {'LN': LayerNorm2d}
BATCH_NORMS = {'BN': nn.BatchNorm2d, 'BN2d': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}


def build_norm(cfg: dict, dim: int, layers: dict[str, type], name: str) -> nn.Module:
    """Build a norm layer from a config such as ``dict(type='LN', eps=1e-5)``.

    Args:
        cfg: ``type`` and the layer's own arguments; ``requires_grad=False`` freezes its weights.
        dim: Number of channels.
        layers: The layer of each type that fits its place.
        name: The argument the config came from, for the error message.

    Raises:
        ArgumentError: If the type is missing or not a key of ``layers``.
    """
    kind, kwargs = _split(cfg, layers, name)
    requires_grad = kwargs.pop('requires_grad', True)
    norm = layers[kind](dim, **kwargs)
    return norm.requires_grad_(requires_grad)


def build_act(cfg: dict, name: str = 'act_cfg') -> nn.Module:
    """Build an activation from a config such as ``dict(type='GELU')``."""
    kind, kwargs = _split(cfg, ACT_LAYERS, name)
    return ACT_LAYERS[kind](**kwargs)


def _split(cfg: dict, allowed: dict[str, type], name: str) -> tuple[str, dict]:
    if not isinstance(cfg, dict) or cfg.get('type') not in allowed:
        raise ArgumentError(f'{name}={cfg!r}: expected a dict whose type is one of {list(allowed)}')
    kwargs = dict(cfg)
    return kwargs.pop('type'), kwargs


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382): drops a residual branch per sample.

    Args:
        drop_prob: Probability of dropping the branch while training.
    """

    def __init__(self, drop_prob: float = 0.):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0. or not self.training:
            return x
        keep = 1 - self.drop_prob
        shape = (x.shape[0], ) + (1, ) * (x.ndim - 1)
        mask = torch.rand(shape, device=x.device) < keep
        return x * (mask / keep).to(x.dtype)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'
