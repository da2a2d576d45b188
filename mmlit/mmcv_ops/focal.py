"""Focal losses (Lin et al., arXiv 1708.02002, eq. 5) and their gradients."""
import torch
from torch import Tensor

__all__ = ['sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward',
           'softmax_focal_loss_backward', 'softmax_focal_loss_forward']


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Fill ``output`` with the loss of each logit.

    Args:
        input: Logits, shape (N, C).
        target: Class of each row, C or more for none, shape (N,).
        weight: Weight of each class, shape (C,), or empty.
        output: Shape (N, C).
        gamma: Focusing parameter.
        alpha: Weight of positives; 1 - alpha is that of negatives.
    """
    p, positive = input.sigmoid(), _one_hot(input, target)
    loss = torch.where(positive, -alpha * (1 - p)**gamma * _log(p),
                       -(1 - alpha) * p**gamma * _log(1 - p))
    output.copy_(loss * _class_weights(target, weight))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor,
                                gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` with the derivative of each loss; arguments as in the forward pass."""
    p, positive = input.sigmoid(), _one_hot(input, target)
    q = 1 - p
    grad = torch.where(positive, -alpha * q**gamma * (q - gamma * p * _log(p)),
                       -(1 - alpha) * p**gamma * (gamma * q * _log(q) - p))
    grad_input.copy_(grad * _class_weights(target, weight))


def softmax_focal_loss_forward(softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Fill ``output`` (N,) with the loss of each row of probabilities (N, C); rows whose target is
    negative have none."""
    p = _of_target(softmax, target)
    loss = -alpha * (1 - p)**gamma * _log(p) * _class_weights(target, weight).squeeze(-1)
    output.copy_(torch.where(target >= 0, loss, 0))


def softmax_focal_loss_backward(softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor,
                                grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Fill ``grad_input`` (N, C) with the derivatives by the logits, ``buff`` (N,) with a factor of
    each row."""
    p = _of_target(softmax, target)
    factor = alpha * (-(1 - p)**gamma + gamma * (1 - p)**(gamma - 1) * p * _log(p))
    factor = factor * _class_weights(target, weight).squeeze(-1)
    buff.copy_(torch.where(target >= 0, factor, 0))
    grad_input.copy_(buff.unsqueeze(1) * (_one_hot(softmax, target).to(softmax.dtype) - softmax))


def _one_hot(input: Tensor, target: Tensor) -> Tensor:
    return target.unsqueeze(1) == torch.arange(input.shape[1], device=input.device)


def _of_target(softmax: Tensor, target: Tensor) -> Tensor:
    return softmax.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)


def _class_weights(target: Tensor, weight: Tensor) -> Tensor | int:
    if weight.numel() == 0:
        return torch.ones(1, device=weight.device, dtype=weight.dtype)
    return weight[target.clamp(0, len(weight) - 1)].unsqueeze(1)


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()
