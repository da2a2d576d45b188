"""Folding weights together for inference: fewer steps, the same outputs.

Each function changes one kind of module in place.
"""
import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError

from .attention import HiLoAttention
from .merging import DeformableTokenMerging


@torch.no_grad()
def fuse_batch_norm(merging: DeformableTokenMerging) -> None:
    """Scale and shift the merging's convolution as its batch norm would scale and shift its output.

    Raises:
        ArgumentError: If the norm has no running statistics, and depends on the batch.
    """
    norm, conv = merging.norm, merging.dconv
    if norm.running_mean is None:
        raise ArgumentError('a batch norm without running statistics (track_running_stats=False) '
                            'depends on the batch: it cannot be fused')
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    bias = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = bias * scale
    if norm.affine:
        bias = bias + norm.bias
    conv.weight = _frozen(scale.view(-1, 1, 1, 1) * conv.weight, conv.weight)
    conv.bias = _frozen(bias, conv.weight)
    merging.norm = nn.Identity().eval()


@torch.no_grad()
def fuse_layer_scale(block: nn.Module) -> None:
    """Scale the outputs of the last linears of a block."""
    if block.gamma2 is not None:
        _scale_rows(block.ffn.fc2, block.gamma2)
    if block.gamma1 is not None:
        projections = [getattr(block.attn, name, None) for name in ('h_proj', 'l_proj')]
        projections = [p for p in projections if p is not None]
        parts = block.gamma1.split([p.out_features for p in projections])
        for projection, gamma in zip(projections, parts, strict=True):
            _scale_rows(projection, gamma)
    block.gamma1 = block.gamma2 = None


@torch.no_grad()
def fuse_projections(attn: HiLoAttention) -> None:
    """One linear for all projections of the same tokens: Hi-Fi's, Lo-Fi's queries and, without
    pooling, keys and values."""
    names = ['h_qkv'] if attn.h_heads else []
    names += ['l_q'] if attn.l_heads else []
    names += ['l_kv'] if attn.l_heads and attn.window_size == 1 else []
    layers = [getattr(attn, name) for name in names]
    if len(layers) == 1:
        return
    first = layers[0]
    attn.inputs = nn.Linear(first.in_features, sum(m.out_features for m in layers),
                         bias=first.bias is not None, device=first.weight.device,
                         dtype=first.weight.dtype)
    attn.inputs.weight = _frozen(torch.cat([m.weight for m in layers]), first.weight)
    if first.bias is not None:
        attn.inputs.bias = _frozen(torch.cat([m.bias for m in layers]), first.weight)
    attn.input_dims = [m.out_features for m in layers]
    attn.inputs.eval()
    for name in names:
        delattr(attn, name)


def _scale_rows(layer: nn.Linear, gamma: Tensor) -> None:
    layer.weight = _frozen(layer.weight.double() * gamma.unsqueeze(1), layer.weight)
    layer.bias = _frozen(layer.bias.double() * gamma, layer.weight)


def _frozen(t: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(t.to(like.dtype), requires_grad=False)
