import importlib.util

if importlib.util.find_spec('mmdet') is None:
    collect_ignore_glob = ['test_*.py']
else:
    # Before mmdet, which imports mmpretrain where it can, and with it torchvision.
    import mmlit  # noqa: F401
