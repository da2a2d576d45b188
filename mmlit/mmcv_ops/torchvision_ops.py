"""torchvision's compiled operators, where its library loads and they are the quicker ones."""
from collections.abc import Callable

import torch
from torch import Tensor

# On a CPU the forms of this package are quicker, but for NMS (one thread, their time over that of
# torchvision 0.29.1): RoIAlign of 512 boxes 0.5 to 1.0 forward and 0.1 to 0.4 backward, deformable
# convolutions 0.5 to 0.6 and 0.2 to 0.4. RoIPool is not torchvision's: it rounds boxes to pixels,
# mmcv does not.
DEVICES = dict(nms=('cpu', 'cuda'), roi_align=('cuda',), _roi_align_backward=('cuda',),
               deform_conv2d=('cuda',), _deform_conv2d_backward=('cuda',))


def torchvision_operator(name: str, x: Tensor) -> Callable | None:
    """``torch.ops.torchvision.NAME`` where it is compiled and the quicker for the device of ``x``.

    torchvision's library registers its operators when torchvision is imported. Beside a torch that
    it was not built for, they are missing, or declared without an implementation (mmlit.compat).
    """
    if x.device.type not in DEVICES[name]:
        return None
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return None
    operator = getattr(torch.ops.torchvision, name, None)
    if operator is None or not torch._C._dispatch_has_kernel_for_dispatch_key(
            f'torchvision::{name}', x.device.type.upper()):
        return None
    return operator


def wide_dtype(x: Tensor) -> torch.dtype:
    """In which positions are computed: in half precision they would be off by whole pixels."""
    return torch.promote_types(x.dtype, torch.float32)
