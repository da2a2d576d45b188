from .allow_list import register_safe_types
from .layouts import convert
from .loading import fill_model, load_checkpoint
from .pretrained import find_pretrained, is_name, list_pretrained
from .reading import read_checkpoint, state_dict_of
from .writing import replace_when_whole, save_weights, written_whole

__all__ = [
    'convert', 'fill_model', 'find_pretrained', 'is_name', 'list_pretrained',
    'load_checkpoint', 'read_checkpoint', 'register_safe_types', 'replace_when_whole',
    'save_weights', 'state_dict_of', 'written_whole'
]
