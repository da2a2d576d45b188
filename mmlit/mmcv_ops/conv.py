"""Deformable convolutions, v1 and v2, and deformable attention over several maps.

All three read maps at positions between pixels, bilinearly and zero outside, and sum what they
read: weighted sums of rows of a channels-last map (``embedding_bag``). Backward passes compute the
forward pass again and let autograd follow it.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlit.errors import ArgumentError

from .gradients import gradients
from .torchvision_ops import torchvision_operator, wide_dtype

__all__ = ['deform_conv_backward_input', 'deform_conv_backward_parameters', 'deform_conv_forward',
           'modulated_deform_conv_backward', 'modulated_deform_conv_forward',
           'ms_deform_attn_backward', 'ms_deform_attn_forward']

Pair = tuple[int, int]


def bilinear_rows(y: Tensor, x: Tensor, H: int | Tensor, W: int | Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (y * W + x) beside positions in a map of H x W, and their weights, each (..., 4)."""
    y0, x0 = y.floor(), x.floor()
    fy, fx = y - y0, x - x0
    rows = torch.stack([y0, y0, y0 + 1, y0 + 1], dim=-1)
    cols = torch.stack([x0, x0 + 1, x0, x0 + 1], dim=-1)
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=-1)
    if isinstance(H, Tensor):
        H, W = H.unsqueeze(-1), W.unsqueeze(-1)
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W)
    index = torch.where(inside, rows * W + cols, 0).long()
    return index, torch.where(inside, weights, 0)


def _columns(input: Tensor, offset: Tensor, mask: Tensor | None, kernel: Pair, stride: Pair,
             padding: Pair, dilation: Pair, deform_groups: int) -> Tensor:
    """What a kernel reads at each place: (B * H_out * W_out, kh * kw, C)."""
    B, C, H, W = input.shape
    H_out, W_out = offset.shape[2:]
    (kh, kw), K, G = kernel, kernel[0] * kernel[1], deform_groups
    dtype = wide_dtype(input)
    # (B, H_out, W_out, K, G): groups innermost, as channels are.
    offset = offset.to(dtype).view(B, G, K, 2, H_out, W_out).permute(3, 0, 4, 5, 2, 1)

    def axis(n: int, steps: int, which: int) -> tuple[Tensor, Tensor]:
        grid = torch.arange(n, device=input.device, dtype=dtype) * stride[which] - padding[which]
        return grid, torch.arange(steps, device=input.device, dtype=dtype) * dilation[which]

    (rows, taps_y), (cols, taps_x) = axis(H_out, kh, 0), axis(W_out, kw, 1)
    y = offset[0] + rows.view(-1, 1, 1, 1) + taps_y.repeat_interleave(kw).view(-1, 1)
    x = offset[1] + cols.view(1, -1, 1, 1) + taps_x.repeat(kh).view(-1, 1)
    index, weights = bilinear_rows(y, x, H, W)
    if mask is not None:
        mask = mask.to(dtype).view(B, G, K, H_out, W_out).permute(0, 3, 4, 2, 1)
        weights = weights * mask.unsqueeze(-1)
    # A row is what one group of channels has at one pixel.
    image = torch.arange(B, device=input.device).view(-1, 1, 1, 1, 1, 1) * (H * W)
    group = torch.arange(G, device=input.device).view(-1, 1)
    table = input.permute(0, 2, 3, 1).reshape(B * H * W * G, C // G).to(dtype)
    read = F.embedding_bag(((index + image) * G + group).view(-1, 4), table,
                           per_sample_weights=weights.reshape(-1, 4), mode='sum')
    return read.view(-1, K, C).to(input.dtype)


def _deform_conv(input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor,
                 bias: Tensor | None, geometry: tuple, groups: int, deform_groups: int) -> Tensor:
    """Deformable convolution: shape (B, C_out, H_out, W_out)."""
    compiled = torchvision_operator('deform_conv2d', input)
    if compiled is not None:
        return compiled(*_torchvision_arguments(input, offset, mask, weight, bias, geometry, groups,
                                                deform_groups)).to(input.dtype)
    columns = _columns(input, offset, mask, tuple(weight.shape[2:]), *geometry, deform_groups)
    (B, _, H_out, W_out), C_out = offset.shape, weight.shape[0]
    if groups == 1:
        out = columns.flatten(1) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    else:
        columns = columns.view(len(columns), -1, groups, weight.shape[1]).permute(2, 0, 1, 3)
        kernels = weight.view(groups, C_out // groups, *weight.shape[1:]).permute(0, 3, 4, 2, 1)
        out = columns.flatten(2) @ kernels.flatten(1, 3)
        out = out.permute(1, 0, 2).reshape(-1, C_out)
    if bias is not None:
        out = out + bias
    return out.view(B, H_out, W_out, C_out).permute(0, 3, 1, 2)


def _deform_conv_gradients(input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor,
                           geometry: tuple, groups: int, deform_groups: int,
                           grad_output: Tensor, wanted: str) -> list[Tensor]:
    """Gradients of those of input, offset, mask and weight whose first letters are ``wanted``."""
    inputs = dict(i=input, o=offset, m=mask, w=weight)
    compiled = torchvision_operator('_deform_conv2d_backward', input)
    if compiled is not None:
        found = compiled(grad_output.to(wide_dtype(input)), *_torchvision_arguments(
            input, offset, mask, weight, None, geometry, groups, deform_groups))
        return [dict(zip('iwom', found[:4], strict=True))[name] for name in wanted]

    def forward(*some: Tensor) -> Tensor:
        i, o, m, w = (inputs | dict(zip(wanted, some, strict=True))).values()
        return _deform_conv(i, o, m, w, None, geometry, groups, deform_groups)

    return gradients(forward, [inputs[name] for name in wanted], grad_output)


def _torchvision_arguments(input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor,
                           bias: Tensor | None, geometry: tuple, groups: int,
                           deform_groups: int) -> list:
    """Arguments of torchvision's operator; in half precision it would round positions to it."""
    given = mask is not None
    mask = mask if given else input.new_zeros(input.shape[0], 1)
    bias = input.new_zeros(weight.shape[0]) if bias is None else bias
    tensors = [t.to(wide_dtype(input)) for t in (input, weight, offset, mask, bias)]
    return [*tensors, *geometry[0], *geometry[1], *geometry[2], groups, deform_groups, given]


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor,
                        columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int,
                        padW: int, padH: int, dilationW: int, dilationH: int, group: int,
                        deformable_group: int, im2col_step: int) -> None:
    """Fill ``output`` by deformable convolution v1 (Dai et al., arXiv 1703.06211, eq. 2-4).

    Args:
        input: Shape (B, C, H, W).
        weight: Shape (C_out, C / group, kH, kW).
        offset: (dy, dx) of each tap, shape (B, deformable_group * kH * kW * 2, H_out, W_out).
        output: Shape (B, C_out, H_out, W_out).
        columns: A buffer of mmcv's kernel; not used.
        ones: The same.
        kW: Width of the kernel, and ``kH`` its height.
        dW: Stride, and ``dH``.
        padW: Zero padding, and ``padH``.
        dilationW: Distance of the taps, and ``dilationH``.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        im2col_step: Images that mmcv's kernel takes at a time; all are taken here.
    """
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW)
    output.copy_(_deform_conv(input, offset, None, weight, None, geometry, group, deformable_group))


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor, gradInput: Tensor,
                               gradOffset: Tensor, weight: Tensor, columns: Tensor, kW: int,
                               kH: int, dW: int, dH: int, padW: int, padH: int, dilationW: int,
                               dilationH: int, group: int, deformable_group: int,
                               im2col_step: int) -> None:
    """Fill ``gradInput`` and ``gradOffset``; arguments as in the forward pass."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW)
    grads = _deform_conv_gradients(input, offset, None, weight, geometry, group, deformable_group,
                                   gradOutput, 'io')
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[1])


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor,
                                    gradWeight: Tensor, columns: Tensor, ones: Tensor, kW: int,
                                    kH: int, dW: int, dH: int, padW: int, padH: int,
                                    dilationW: int, dilationH: int, group: int,
                                    deformable_group: int, scale: float, im2col_step: int) -> None:
    """Add the kernel's gradient, times ``scale``, to ``gradWeight``."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW)
    grad, = _deform_conv_gradients(input, offset, None, gradWeight, geometry, group,
                                   deformable_group, gradOutput, 'w')
    gradWeight.add_(grad, alpha=scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
                                  offset: Tensor, mask: Tensor, output: Tensor, columns: Tensor,
                                  kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
                                  pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
                                  group: int, deformable_group: int, with_bias: bool) -> None:
    """Fill ``output`` by deformable convolution v2 (Zhu et al., arXiv 1811.11168, eq. 1).

    Args:
        input: Shape (B, C, H, W).
        weight: Shape (C_out, C / group, kernel_h, kernel_w).
        bias: Shape (C_out,); empty without a bias.
        ones: A buffer of mmcv's kernel; not used.
        offset: (dy, dx) of each tap, shape (B, deformable_group * K * 2, H_out, W_out).
        mask: Weight of each tap, shape (B, deformable_group * K, H_out, W_out).
        output: Shape (B, C_out, H_out, W_out).
        columns: A buffer of mmcv's kernel; not used.
        kernel_h: Height of the kernel, and ``kernel_w`` its width.
        stride_h: Stride, and ``stride_w``.
        pad_h: Zero padding, and ``pad_w``.
        dilation_h: Distance of the taps, and ``dilation_w``.
        group: Groups of the convolution.
        deformable_group: Groups of channels with offsets of their own.
        with_bias: Whether there is a bias.
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    offset, mask = _as_read(offset, output), _as_read(mask, output)
    output.copy_(_deform_conv(input, offset, mask, weight, bias if with_bias else None, geometry,
                              group, deformable_group))


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
                                   offset: Tensor, mask: Tensor, columns: Tensor,
                                   grad_input: Tensor, grad_weight: Tensor, grad_bias: Tensor,
                                   grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
                                   kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
                                   pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
                                   group: int, deformable_group: int, with_bias: bool) -> None:
    """Add the gradients to the ``grad_...`` buffers; arguments as in the forward pass."""
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    grads = _deform_conv_gradients(input, _as_read(offset, grad_output),
                                   _as_read(mask, grad_output), weight, geometry, group,
                                   deformable_group, grad_output, 'iomw')
    for buffer, grad in zip((grad_input, grad_offset, grad_mask, grad_weight), grads, strict=True):
        missing = buffer[:1].numel() - grad[:1].numel()  # what was not read
        buffer.add_(F.pad(grad.flatten(1), (0, missing)).view(buffer.shape))
    if with_bias:
        grad_bias.add_(grad_output.sum(dim=(0, 2, 3)))


def _as_read(given: Tensor, output: Tensor) -> Tensor:
    """Offsets or masks (B, N, ., .) as (B, N, H_out, W_out).

    mmcv's kernel does not ask for their height and width, and reads the memory of each image from
    its start. mmdet's DyHead relies on that: it gives to a coarse map what belongs to a finer one.
    """
    B, N, *size = given.shape
    if size == list(output.shape[2:]):
        return given
    count = N * output.shape[2:].numel()
    if given[:1].numel() < count:
        raise ArgumentError(f'modulated deformable convolution: offset or mask of shape '
                            f'{tuple(given.shape)} is too small for an output of '
                            f'{tuple(output.shape)}')
    return given.flatten(1)[:, :count].view(B, N, *output.shape[2:])


def _ms_deform_attn(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor,
                    weights: Tensor) -> Tensor:
    B, N, heads, d = value.shape
    _, Q, _, L, P, _ = locations.shape
    dtype = wide_dtype(value)
    H, W = (shapes[:, i].view(L, 1) for i in (0, 1))
    x, y = (locations.to(dtype)[..., i] * n - 0.5 for i, n in ((0, W), (1, H)))
    index, bilinear = bilinear_rows(y, x, H, W)
    image = torch.arange(B, device=value.device).view(-1, 1, 1, 1, 1, 1) * N
    head = torch.arange(heads, device=value.device).view(-1, 1, 1, 1)
    index = (index + starts.view(L, 1, 1) + image) * heads + head
    out = F.embedding_bag(index.view(B * Q * heads, -1), value.reshape(-1, d).to(dtype),
                          per_sample_weights=(bilinear * weights.to(dtype).unsqueeze(-1)).view(
                              B * Q * heads, -1), mode='sum')
    return out.view(B, Q, heads * d).to(value.dtype)


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor,
                           value_level_start_index: Tensor, sampling_locations: Tensor,
                           attention_weights: Tensor, im2col_step: int) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., arXiv 2010.04159, eq. 3).

    Args:
        value: Maps one after the other, shape (B, sum of H * W, heads, d).
        value_spatial_shapes: Height and width of each map, shape (L, 2).
        value_level_start_index: Where each begins, shape (L,).
        sampling_locations: (x, y) in [0, 1], shape (B, Q, heads, L, P, 2).
        attention_weights: Shape (B, Q, heads, L, P).
        im2col_step: Images that mmcv's kernel takes at a time; all are taken here.

    Returns:
        Shape (B, Q, heads * d).
    """
    return _ms_deform_attn(value, value_spatial_shapes, value_level_start_index,
                           sampling_locations, attention_weights)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor,
                            value_level_start_index: Tensor, sampling_locations: Tensor,
                            attention_weights: Tensor, grad_output: Tensor, grad_value: Tensor,
                            grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int) -> None:
    """Fill the ``grad_...`` buffers; arguments as in the forward pass."""
    grads = gradients(lambda v, s, a: _ms_deform_attn(v, value_spatial_shapes,
                                                      value_level_start_index, s, a),
                      [value, sampling_locations, attention_weights], grad_output)
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer.copy_(grad)
