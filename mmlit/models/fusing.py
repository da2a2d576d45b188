"""Folding weights together for inference: fewer steps, the same outputs.

Each function changes one kind of module in place.
"""
import torch
from torch import Tensor, nn

from mmlit.errors import ArgumentError
from mmlit.ops import is_plain

from .attention import HiLoAttention
from .ffn import ConvFFN
from .merging import DeformableTokenMerging, DeformConv2d


def check_plain(model: nn.Module) -> None:
    """See that calling each layer that is to be folded means what its weights say.

    Raises:
        ArgumentError: If someone has changed or watches one: a hook or an adapter would be lost, or
            would see other numbers.
    """
    names = {id(m): name for name, m in model.named_modules()}
    for stage in model.stages:
        folded = [layer for block in stage.blocks for layer in _folded_layers(block)]
        if stage.downsample is not None:
            norm = stage.downsample.norm
            folded += [(stage.downsample.dconv, DeformConv2d), (norm, _kind_of_norm(norm))]
        for layer, kind in folded:
            if not is_plain(layer, kind):
                raise ArgumentError(
                    f'fuse() folds the weights of {names[id(layer)]}, but calling this layer does '
                    'more than its weights say (a hook, an adapter, a replaced forward, a '
                    'parametrisation): merge the adapter into the weights, or remove it, first')


def _kind_of_norm(norm: nn.Module) -> type:
    """Toolkits put subclasses in place of SyncBN, for one process, that differ in checks only."""
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return type(norm) if any(type(norm).forward is k.forward for k in kinds) else kinds[0]


def _folded_layers(block: nn.Module) -> list[tuple[nn.Module, type]]:
    """The layers of a block whose weights change, and of which class they must be."""
    layers = []
    if block.gamma2 is not None:  # a hook of the network would see outputs of another scale
        layers += [(block.ffn, ConvFFN), (block.ffn.fc2, nn.Linear)]
    if block.attn is not None:
        names = _same_inputs(block.attn)
        names = names if len(names) > 1 else []
        if block.gamma1 is not None:
            layers.append((block.attn, HiLoAttention))
            names += [n for n in ('h_proj', 'l_proj') if hasattr(block.attn, n)]
        layers += [(getattr(block.attn, name), nn.Linear) for name in names]
    return layers


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
    names = _same_inputs(attn)
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


def _same_inputs(attn: HiLoAttention) -> list[str]:
    """The projections that read the same tokens."""
    names = ['h_qkv'] if attn.h_heads else []
    names += ['l_q'] if attn.l_heads else []
    return names + (['l_kv'] if attn.l_heads and attn.window_size == 1 else [])


def _scale_rows(layer: nn.Linear, gamma: Tensor) -> None:
    layer.weight = _frozen(layer.weight.double() * gamma.unsqueeze(1), layer.weight)
    layer.bias = _frozen(layer.bias.double() * gamma, layer.weight)


def _frozen(t: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(t.to(like.dtype), requires_grad=False)
