"""Norms, activations and stochastic depth, by OpenMMLab's config names."""
import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError

NORM_LAYERS = {
    'LN': nn.LayerNorm,
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
}
ACT_LAYERS = {
    'GELU': nn.GELU,
    'ReLU': nn.ReLU,
    'LeakyReLU': nn.LeakyReLU,
    'SiLU': nn.SiLU,
    'Swish': nn.SiLU,
    'Hardswish': nn.Hardswish,
}


def build_norm(cfg: dict, dim: int, allowed: tuple[str, ...], name: str) -> nn.Module:
    """Build a norm layer from a config such as ``dict(type='LN', eps=1e-5)``.

    Args:
        cfg: ``type`` and the layer's own arguments; ``requires_grad=False`` freezes its weights.
        dim: Number of channels.
        allowed: Types that fit the place the layer is for.
        name: The argument the config came from, for the error message.

    Raises:
        ArgumentError: If the type is missing or not one of ``allowed``.
    """
    kind, kwargs = _split(cfg, allowed, name)
    requires_grad = kwargs.pop('requires_grad', True)
    norm = NORM_LAYERS[kind](dim, **kwargs)
    return norm.requires_grad_(requires_grad)


def build_act(cfg: dict, name: str = 'act_cfg') -> nn.Module:
    """Build an activation from a config such as ``dict(type='GELU')``."""
    kind, kwargs = _split(cfg, tuple(ACT_LAYERS), name)
    return ACT_LAYERS[kind](**kwargs)


def _split(cfg: dict, allowed: tuple[str, ...], name: str) -> tuple[str, dict]:
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
