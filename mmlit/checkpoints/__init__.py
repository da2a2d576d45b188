from .allow_list import register_safe_types
from .layouts import convert
from .loading import fill_model, load_checkpoint
from .meta import describe
from .pretrained import check_settings, list_pretrained, resolve_pretrained
from .publishing import publish
from .reading import read_checkpoint, state_dict_of
from .writing import refuse_existing, replace_when_whole, save_weights, written_whole

__all__ = [
    'check_settings', 'convert', 'describe', 'fill_model', 'list_pretrained', 'load_checkpoint',
    'publish', 'read_checkpoint', 'refuse_existing', 'register_safe_types', 'replace_when_whole',
    'resolve_pretrained', 'save_weights', 'state_dict_of', 'written_whole'
]
