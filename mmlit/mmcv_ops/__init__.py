"""What mmcv compiles, in PyTorch, for an mmcv 1.7 or 2 that was installed without it.

``mmcv.ops`` looks its functions up by name in the extension module ``mmcv._ext``. Where mmcv has
none (mmcv-lite, or mmcv from its pure-Python wheel), :func:`supply_extension` makes that module
importable with the functions of this package, which have mmcv's names, arguments and buffers.
"""
from .extension import is_compiled, supply_extension

__all__ = ['is_compiled', 'supply_extension']
