from .layouts import convert
from .loading import fill_model, load_checkpoint
from .meta import describe, kept_meta
from .pretrained import list_pretrained, resolve_pretrained
from .reading import check_finite, read_checkpoint, state_dict_of
from .writing import (
    refuse_existing,
    refuse_same_file,
    replace_when_whole,
    save_weights,
    temporary_name,
    written_whole,
)

__all__ = [
    'check_finite', 'convert', 'describe', 'fill_model', 'kept_meta', 'list_pretrained',
    'load_checkpoint', 'read_checkpoint', 'refuse_existing', 'refuse_same_file',
    'replace_when_whole', 'resolve_pretrained', 'save_weights', 'state_dict_of', 'temporary_name',
    'written_whole'
]
