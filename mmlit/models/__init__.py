from .attention import HiLoAttention
from .classifier import LITv2Classifier, litv2_base, litv2_medium, litv2_small, litv2_tiny
from .litv2 import LITv2

__all__ = [
    'HiLoAttention', 'LITv2', 'LITv2Classifier', 'litv2_tiny', 'litv2_small', 'litv2_medium',
    'litv2_base'
]
