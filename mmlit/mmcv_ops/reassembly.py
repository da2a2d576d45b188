"""CARAFE, convolution at some places only, and point-wise spatial attention."""
import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import gradients

__all__ = ['carafe_backward', 'carafe_forward', 'carafe_naive_backward', 'carafe_naive_forward',
           'masked_col2im_forward', 'masked_im2col_forward', 'psamask_backward', 'psamask_forward']


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
           scale_factor: int) -> Tensor:
    """Content-aware reassembly (Wang et al., arXiv 1905.02188, eq. 4).

    Each output pixel is a weighted sum of the neighbourhood of its source pixel.

    Args:
        features: Shape (B, C, H, W).
        masks: Weights, shape (B, groups * k², H * s, W * s).
        kernel_size: Side k of the neighbourhood, odd.
        group_size: Number of groups of channels with weights of their own.
        scale_factor: s.

    Returns:
        Shape (B, C, H * s, W * s).
    """
    B, C, H, W = features.shape
    k, g, s = kernel_size, group_size, scale_factor
    padded = F.pad(features, [k // 2] * 4).view(B, g, C // g, H + k - 1, 1, W + k - 1, 1)
    masks = masks.view(B, g, k * k, 1, H, s, W, s)
    out = 0
    for tap in range(k * k):  # a tap at a time: all at once are k² times the output
        y, x = divmod(tap, k)
        out = out + padded[:, :, :, y:y + H, :, x:x + W] * masks[:, :, tap]
    return out.reshape(B, C, H * s, W * s)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, kernel_size: int,
                         group_size: int, scale_factor: int) -> None:
    """Fill ``output`` by :func:`carafe`."""
    output.copy_(carafe(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(top_grad: Tensor, features: Tensor, masks: Tensor, bottom_grad: Tensor,
                          mask_grad: Tensor, kernel_size: int, group_size: int,
                          scale_factor: int) -> None:
    """Add the gradients of features and masks to ``bottom_grad`` and ``mask_grad``."""
    grads = gradients(lambda x, m: carafe(x, m, kernel_size, group_size, scale_factor),
                      [features, masks], top_grad)
    bottom_grad.add_(grads[0])
    mask_grad.add_(grads[1])


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor,
                   rmasks: Tensor, output: Tensor, kernel_size: int, group_size: int,
                   scale_factor: int) -> None:
    """Fill ``output`` by :func:`carafe`, and ``rfeatures`` with what the backward pass needs.

    ``routput`` and ``rmasks`` are rearranged copies in mmcv's kernels; here nothing is rearranged.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(top_grad: Tensor, rfeatures: Tensor, masks: Tensor, rtop_grad: Tensor,
                    rbottom_grad_hs: Tensor, rbottom_grad: Tensor, rmask_grad: Tensor,
                    bottom_grad: Tensor, mask_grad: Tensor, kernel_size: int, group_size: int,
                    scale_factor: int) -> None:
    """Fill ``bottom_grad`` and ``mask_grad``; the other buffers are mmcv's, as in the forward."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size,
                          group_size, scale_factor)


def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor,
                          kernel_h: int, kernel_w: int, pad_h: int, pad_w: int) -> None:
    """Fill ``col`` (C * kh * kw, N) with the neighbourhoods of N places in ``im`` (1, C, H, W)."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device).view(-1, 1, 1)
    cols = mask_w_idx + torch.arange(kernel_w, device=im.device).view(1, -1, 1)
    col.copy_(padded[:, rows, cols].reshape(col.shape))


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor,
                          height: int, width: int, channels: int) -> None:
    """Write the columns of ``col`` (C, N) to N places in ``im`` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, h_feature: int,
                    w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                    half_w_mask: int) -> None:
    """Lay attention masks around each pixel out over the whole map (Zhao et al., PSANet).

    Args:
        input: Masks, shape (B, h_mask * w_mask, H, W).
        output: Filled where a mask meets the map; shape (B, H * W, H, W). With type 0 (collect) its
            channels are the pixels that are looked at, with type 1 (distribute) those that look.
        psa_type: 0 or 1.
        num_: B.
        h_feature: H, and ``w_feature`` W.
        h_mask: Height of a mask, and ``w_mask`` its width.
        half_h_mask: Row of its centre, and ``half_w_mask`` the column.
    """
    mask, here, there = _psa_places(input.device, h_feature, w_feature, h_mask, w_mask, half_h_mask,
                                    half_w_mask)
    source, target = input.flatten(2), output.flatten(2)
    channel, pixel = (there, here) if psa_type == 0 else (here, there)
    target[:, channel, pixel] = source[:, mask, here]


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int,
                     h_feature: int, w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                     half_w_mask: int) -> None:
    """Fill ``grad_input`` from ``grad_output``; arguments as in the forward pass."""
    mask, here, there = _psa_places(grad_input.device, h_feature, w_feature, h_mask, w_mask,
                                    half_h_mask, half_w_mask)
    source, target = grad_output.flatten(2), grad_input.view(*grad_input.shape[:2], -1)
    channel, pixel = (there, here) if psa_type == 0 else (here, there)
    target[:, mask, here] = source[:, channel, pixel]


def _psa_places(device, H: int, W: int, h_mask: int, w_mask: int, half_h: int,
                half_w: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each entry of each mask that meets the map: which entry, of which pixel, over which."""
    i, j, h, w = torch.meshgrid(*(torch.arange(n, device=device) for n in (h_mask, w_mask, H, W)),
                                indexing='ij')
    y, x = i + h - half_h, j + w - half_w
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    return tuple(t[inside] for t in (i * w_mask + j, h * W + w, y * W + x))
