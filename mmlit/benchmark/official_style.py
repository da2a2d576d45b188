"""LITv2 computed as the official release does, to compare with: same weights, same results."""
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlit.errors import ArgumentError
from mmlit.mmcv_ops import is_compiled
from mmlit.models import LITv2, LITv2Classifier
from mmlit.ops import deform_conv2d

if is_compiled():
    from mmcv.ops import deform_conv2d as mmcv_deform_conv2d
else:
    mmcv_deform_conv2d = None


class OfficialStyle(nn.Module):
    """The dataflow of https://github.com/ziplab/LITv2 on the weights of a model of ours.

    Tokens travel as (B, N, C) with H and W beside them. Each depthwise convolution transposes them
    to (B, C, H, W) and back; attention is two matrix products around a softmax; windows are
    gathered by reshaping; Lo-Fi queries of padded tokens are computed; token merging runs mmcv's
    compiled deformable convolution where mmcv has its ops, and ours where not.

    Args:
        model: The model whose weights are copied, without layer scale and dropout.

    Raises:
        ArgumentError: If the model has what the official one has not.
    """

    def __init__(self, model: LITv2 | LITv2Classifier):
        super().__init__()
        model = copy.deepcopy(model)
        self.head = model.head if isinstance(model, LITv2Classifier) else None
        self.backbone = model if self.head is None else model.backbone
        if any('gamma' in name for name, _ in model.named_parameters()):
            raise ArgumentError('the official model has no layer scale: use init_values=0')

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images (B, C, H, W) to logits (B, num_classes), or to the maps of a backbone."""
        m = self.backbone
        x, H, W = _embed(m.patch_embed, x)
        outs = []
        for i, stage in enumerate(m.stages):
            for block in stage.blocks:
                if block.attn is not None:
                    x = x + block.drop_path(_hilo(block.attn, block.norm1(x), H, W))
                x = x + block.drop_path(_ffn(block.ffn, block.norm2(x), H, W))
            if i in m.out_indices:
                outs.append((_norm(getattr(m, f'norm{i}'), x) if i in m.norm_indices else x, H, W))
            if i == m.out_indices[-1]:
                break
            x, H, W = _merge(stage.downsample, x, H, W)
        if self.head is not None:
            tokens = outs[-1][0]
            return F.linear(F.adaptive_avg_pool1d(tokens.transpose(1, 2), 1).flatten(1),
                            self.head.weight, self.head.bias)
        return tuple(out.view(-1, H, W, out.shape[-1]).permute(0, 3, 1, 2).contiguous()
                     for out, H, W in outs)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def _embed(layer, x: Tensor) -> tuple[Tensor, int, int]:
    p = layer.proj.stride[0]
    x = F.pad(x, (0, -x.shape[3] % p, 0, -x.shape[2] % p))
    x = F.conv2d(x, layer.proj.weight, layer.proj.bias, stride=p)
    H, W = x.shape[2:]
    return layer.norm(x.flatten(2).transpose(1, 2)), H, W


def _ffn(layer, x: Tensor, H: int, W: int) -> Tensor:
    x = _linear(layer.fc1, x)
    B, _, C = x.shape
    conv = layer.dwconv
    x = x.transpose(1, 2).view(B, C, H, W)
    x = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=C)
    return _linear(layer.fc2, layer.act(x.flatten(2).transpose(1, 2)))


def _hilo(layer, x: Tensor, H: int, W: int) -> Tensor:
    B, N, C = x.shape
    s = layer.window_size
    x = F.pad(x.reshape(B, H, W, C), (0, 0, 0, -W % s, 0, -H % s))
    outs = []
    if layer.h_heads:
        outs.append(_hifi(layer, x))
    if layer.l_heads:
        outs.append(_lofi(layer, x))
    return torch.cat(outs, dim=-1)[:, :H, :W].reshape(B, N, C)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attn = (q @ k.transpose(-2, -1)) * q.shape[-1]**-0.5
    return attn.softmax(dim=-1) @ v


def _hifi(layer, x: Tensor) -> Tensor:
    B, H, W, C = x.shape
    s, heads, d = layer.window_size, layer.h_heads, layer.head_dims
    h, w = H // s, W // s
    x = x.reshape(B, h, s, w, s, C).transpose(2, 3)
    qkv = _linear(layer.h_qkv, x).reshape(B, h * w, s * s, 3, heads, d).permute(3, 0, 1, 4, 2, 5)
    x = _attend(*qkv).transpose(2, 3).reshape(B, h, w, s, s, heads * d)
    return _linear(layer.h_proj, x.transpose(2, 3).reshape(B, H, W, heads * d))


def _lofi(layer, x: Tensor) -> Tensor:
    B, H, W, C = x.shape
    s, heads, d = layer.window_size, layer.l_heads, layer.head_dims
    q = _linear(layer.l_q, x).reshape(B, H * W, heads, d).permute(0, 2, 1, 3)
    if s > 1:
        x = F.avg_pool2d(x.permute(0, 3, 1, 2), s).reshape(B, C, -1).permute(0, 2, 1)
    kv = _linear(layer.l_kv, x).reshape(B, -1, 2, heads, d).permute(2, 0, 3, 1, 4)
    x = _attend(q, *kv).transpose(1, 2).reshape(B, H, W, heads * d)
    return _linear(layer.l_proj, x)


def _merge(layer, x: Tensor, H: int, W: int) -> tuple[Tensor, int, int]:
    B, _, C = x.shape
    x = x.view(B, H, W, C).permute(0, 3, 1, 2).contiguous()
    x = layer.act(layer.norm(_deform_conv(layer.dconv, x)))
    return x.flatten(2).transpose(1, 2), *x.shape[2:]


def _deform_conv(layer, x: Tensor) -> Tensor:
    offset = F.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, **layer.geometry)
    if mmcv_deform_conv2d is None:
        out = deform_conv2d(x.permute(0, 2, 3, 1), offset.permute(0, 2, 3, 1).contiguous(),
                            layer.weight, layer.bias, **layer.geometry)
        return out.permute(0, 3, 1, 2).contiguous()
    # mmcv's op has no bfloat16 form on the CPU: that map is widened for it.
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        out = mmcv_deform_conv2d(x.to(dtype), offset.to(dtype), layer.weight.to(dtype),
                                 *layer.geometry.values()).to(x.dtype)
    return out if layer.bias is None else out + layer.bias.view(-1, 1, 1)
