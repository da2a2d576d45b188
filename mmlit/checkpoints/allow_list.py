"""Pickles that may hold a few harmless types beside weights, and nothing else."""
import codecs
import pickle
from collections.abc import Sequence
from types import SimpleNamespace

import torch

# Before torch 2.6, ``weights_only`` knows no types but its own, or not under another name.
EXTENDABLE = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


def load(path, allowed: Sequence[type | tuple] = ()) -> object:
    """``torch.load`` onto the CPU with ``weights_only``, whatever the version of torch.

    Args:
        path: Path of the file.
        allowed: Types and functions that it may name; (object, name) where the file has another
            name for it.

    Raises:
        pickle.UnpicklingError: If it names something else.
    """
    if not allowed:
        return torch.load(path, map_location='cpu', weights_only=True)
    if EXTENDABLE:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location='cpu', weights_only=True)
    return torch.load(path, map_location='cpu', weights_only=False,
                      pickle_module=_restricted_pickle(allowed))


def _restricted_pickle(allowed: Sequence[type | tuple]) -> SimpleNamespace:
    """What torch.load needs of the module pickle, with a reader that finds no other names."""
    known = dict(torch._weights_only_unpickler._get_allowed_globals())
    known['_codecs.encode'] = codecs.encode  # makes bytes, and torch >= 2.6 allows it, too
    for entry in allowed:
        value, name = entry if isinstance(entry, tuple) else (
            entry, f'{entry.__module__}.{entry.__qualname__}')
        known[name] = value

    class Unpickler(pickle.Unpickler):

        def find_class(self, module: str, name: str) -> object:
            # The pickles that torch writes have Python 2's name for it.
            name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
            if name not in known:
                raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {name}')
            return known[name]

    def load(file, **kwargs) -> object:
        return Unpickler(file, **kwargs).load()

    return SimpleNamespace(__name__='pickle', Unpickler=Unpickler, load=load)
