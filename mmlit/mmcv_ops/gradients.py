"""Gradients of functions whose forward pass autograd can follow."""
from collections.abc import Callable

import torch
from torch import Tensor


def gradients(function: Callable, inputs: list[Tensor], grad_output: Tensor) -> list[Tensor]:
    """Compute ``function(*inputs)`` again; return the gradient of each input."""
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in inputs]
        out = function(*inputs)
        found = [None] * len(inputs)
        if out.requires_grad:
            found = torch.autograd.grad(out, inputs, grad_output, allow_unused=True)
    return [torch.zeros_like(t) if grad is None else grad
            for t, grad in zip(inputs, found, strict=True)]
