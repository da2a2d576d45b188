from .layouts import convert
from .loading import load_backbone, load_checkpoint
from .reading import read_checkpoint

__all__ = ['convert', 'load_backbone', 'load_checkpoint', 'read_checkpoint']
