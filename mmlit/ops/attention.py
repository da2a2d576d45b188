"""Attention of tokens to tokens."""
import torch.nn.functional as F
from torch import Tensor

from .torch_state import transforming


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.) -> Tensor:
    """softmax(q k^T / sqrt(d)) v by PyTorch's fused kernels, where they will do.

    Args:
        q: Queries, shape (..., N, d).
        k: Keys, shape (..., M, d).
        v: Values, shape (..., M, d).
        dropout: Dropout of attention weights.

    Returns:
        Shape (..., N, d).
    """
    if transforming():  # the kernels have no forward-mode derivatives
        return attention_by_products(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def attention_by_products(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.) -> Tensor:
    """The same, one step after the other."""
    weights = (q * q.shape[-1]**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ v
