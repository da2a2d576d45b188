import importlib.util

if importlib.util.find_spec('mmdet') is None:
    collect_ignore_glob = ['test_*.py']
elif importlib.util.find_spec('torchvision'):
    # mmpretrain imports it, and so does every Runner of mmengine, to log its version.
    from mmlit.torchvision_compat import make_torchvision_importable
    make_torchvision_importable()
