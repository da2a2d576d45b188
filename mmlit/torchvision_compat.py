"""torchvision's registry build beside a CPU build of torch."""
import importlib
import sys

import torch


def make_torchvision_importable() -> None:
    """Import torchvision, also where its compiled library cannot load.

    The registries' torchvision is built for CUDA. Beside a CPU build of torch, two operators that
    its Python code describes do not exist, and the import fails (torchvision 0.28.0). Declared
    without an implementation, they fail only when called.
    """
    try:
        importlib.import_module('torchvision')
    except RuntimeError as e:
        if 'torchvision::' not in str(e):
            raise
        for name in [m for m in sys.modules if m.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        for name in ('nms', 'qnms'):
            torch.library.define(f'torchvision::{name}',
                                 '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        importlib.import_module('torchvision')
