"""Batch norm over processes, as the steps between which mmcv's ``MMSyncBN`` sums over them."""
import torch
from torch import Tensor

__all__ = ['sync_bn_backward_data', 'sync_bn_backward_param', 'sync_bn_forward_mean',
           'sync_bn_forward_output', 'sync_bn_forward_var']


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Fill ``mean`` (C,) with this process's means of ``input`` (B, C, N)."""
    mean.copy_(input.float().mean(dim=(0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Fill ``var`` (C,) with the mean squared distance from ``mean`` (C,)."""
    var.copy_((input.float() - mean.view(-1, 1)).square().mean(dim=(0, 2)))


def sync_bn_forward_output(input: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None,
                           bias: Tensor | None, running_mean: Tensor | None,
                           running_var: Tensor | None, norm: Tensor, std: Tensor, output: Tensor,
                           eps: float, momentum: float | Tensor, group_size: int) -> None:
    """Normalise by the statistics of all processes, and update the running ones.

    Args:
        input: Shape (B, C, N).
        mean: Of all processes, shape (C,).
        var: The same.
        weight: Shape (C,), or None.
        bias: Shape (C,), or None.
        running_mean: Moved towards ``mean``, shape (C,), or None.
        running_var: Moved towards the unbiased variance, shape (C,), or None.
        norm: Filled with what the backward pass needs, shape (B, C, N).
        std: Filled, shape (C,).
        output: Filled, shape (B, C, N).
        eps: Added to the variance.
        momentum: Weight of this batch in the running statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean.view(-1, 1)) / std.view(-1, 1))
    output.copy_(norm if weight is None else norm * weight.view(-1, 1) + bias.view(-1, 1))
    if running_mean is not None:
        count = input.shape[0] * input.shape[2] * group_size
        running_mean.lerp_(mean, torch.as_tensor(momentum, dtype=mean.dtype, device=mean.device))
        running_var.lerp_(var * (count / (count - 1)) if count > 1 else var,
                          torch.as_tensor(momentum, dtype=var.dtype, device=var.device))


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor,
                           grad_bias: Tensor) -> None:
    """Fill ``grad_weight`` and ``grad_bias`` (C,) with this process's gradients."""
    grad_weight.copy_((grad_output.float() * norm).sum(dim=(0, 2)))
    grad_bias.copy_(grad_output.float().sum(dim=(0, 2)))


def sync_bn_backward_data(grad_output: Tensor, weight: Tensor, grad_weight: Tensor,
                          grad_bias: Tensor, norm: Tensor, std: Tensor, grad_input: Tensor) -> None:
    """Fill ``grad_input`` (B, C, N) from the gradients of all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    weight, grad_weight, grad_bias, std = (t.view(-1, 1) for t in (weight, grad_weight, grad_bias,
                                                                   std))
    grad_input.copy_(weight * (grad_output - (grad_weight * norm + grad_bias) / count) / std)
