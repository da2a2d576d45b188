"""LITv2 for OpenMMLab and openmixup."""
from .checkpoints import list_pretrained, load_checkpoint, register_safe_types
from .compat import declare_torchvision_operators, name_mmsegs_distribution
from .generations import prepare_openmixup
from .mmcv_ops import supply_extension
from .models import LITv2, LITv2Classifier, litv2_base, litv2_medium, litv2_small, litv2_tiny
from .package_files import register_configs
from .registration import register_openmmlab

__version__ = '0.1.0'
__all__ = [
    'LITv2', 'LITv2Classifier', 'litv2_tiny', 'litv2_small', 'litv2_medium', 'litv2_base',
    'list_pretrained', 'load_checkpoint'
]

register_openmmlab()
register_configs()
register_safe_types()
declare_torchvision_operators()
name_mmsegs_distribution()
supply_extension()
prepare_openmixup()
