"""What toolkits miss in environments that mmlit supports, supplied only where it is missing.

``import mmlit`` calls both functions: it is all that a config with ``custom_imports`` runs of mmlit
before the toolkit's own Runner.
"""
import ctypes
import importlib.util
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version

import torch
from mmengine.config.utils import MODULE2PACKAGE


def declare_torchvision_operators() -> None:
    """Let torchvision's CUDA build be imported beside a CPU build of torch.

    The registries' torchvision is built for CUDA. Beside a CPU torch its library cannot load, and
    its Python code then describes two operators that do not exist, which is an error (torchvision
    0.28.0). mmengine's Runner, which logs the version, and mmpretrain fail with it. Declared
    without an implementation, the operators fail only when called.

    Nothing is declared, and torchvision left to itself, where torch has CUDA, where torchvision is
    absent, and where its library loads or fails for any other reason.
    """
    package = importlib.util.find_spec('torchvision')
    if package is None or torch.backends.cuda.is_built():
        return
    library = PathFinder.find_spec('_C', package.submodule_search_locations)
    if library is None:
        return
    try:
        ctypes.CDLL(library.origin)
    except OSError as e:
        if 'cuda' not in str(e):
            return
        for name in ('nms', 'qnms'):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f'torchvision::{name}',
                                     '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


def name_mmsegs_distribution() -> None:
    """Let ``mmseg::`` in configs find mmseg when it is not of the distribution mmsegmentation.

    mmengine looks for the distribution by this name, then for a package of the same name. OneDL's
    is onedl-mmsegmentation, so only the package's own name leads there.
    """
    try:
        version(MODULE2PACKAGE['mmseg'])
    except PackageNotFoundError:
        if importlib.util.find_spec('mmseg') is not None:
            MODULE2PACKAGE['mmseg'] = 'mmseg'
