from .layouts import convert
from .loading import fill_model, load_checkpoint
from .reading import read_checkpoint
from .writing import latest_checkpoint, replace_when_whole

__all__ = ['convert', 'fill_model', 'latest_checkpoint', 'load_checkpoint', 'read_checkpoint',
            'replace_when_whole']
