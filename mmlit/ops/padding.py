"""Maps whose sides are multiples of a window or a patch."""
import torch.nn.functional as F
from torch import Tensor

from .torch_state import exporting


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a map at the bottom and the right, as little as it takes.

    An exported graph pads always, be it by nothing: it has one way for all sizes.

    Args:
        x: Shape (B, H, W, C).
        multiple: What the sides become multiples of.

    Returns:
        Shape (B, H', W', C); ``x`` itself if nothing is missing.
    """
    _, H, W, _ = x.shape
    if not exporting() and H % multiple == 0 and W % multiple == 0:
        return x
    # Sides written as a product: symbolic sizes are then multiples without proof.
    bottom, right = [(n + multiple - 1) // multiple * multiple - n for n in (H, W)]
    return F.pad(x, (0, 0, 0, right, 0, bottom))
