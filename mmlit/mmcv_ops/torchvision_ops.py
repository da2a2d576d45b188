"""torchvision's compiled operators, where its library loads."""
from collections.abc import Callable

import torch
from torch import Tensor


def torchvision_operator(name: str, x: Tensor) -> Callable | None:
    """``torch.ops.torchvision.NAME`` if it is compiled for the device of ``x``; else None.

    torchvision's library registers its operators when torchvision is imported. Beside a torch that
    it was not built for, they are missing, or declared without an implementation (mmlit.compat).
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return None
    operator = getattr(torch.ops.torchvision, name, None)
    key = {'cpu': 'CPU', 'cuda': 'CUDA'}.get(x.device.type)
    if operator is None or key is None or not torch._C._dispatch_has_kernel_for_dispatch_key(
            f'torchvision::{name}', key):
        return None
    return operator
