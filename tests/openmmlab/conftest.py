import importlib.util

import pytest

# OneDL has no mmpretrain.
needs_mmpretrain = pytest.mark.skipif(importlib.util.find_spec('mmpretrain') is None,
                                      reason='mmpretrain is not installed')

if importlib.util.find_spec('mmdet') is None:
    collect_ignore_glob = ['test_*.py']
else:
    # Before mmdet, which imports mmpretrain where it can, and with it torchvision.
    import mmlit  # noqa: F401

    from ..conftest import TORCH

    # What counts FLOPs, and what exports.
    collect_ignore = [name for name, since in [('test_flops.py', (2, 4)),
                                               ('test_deployment.py', (2, 11))] if since > TORCH]
