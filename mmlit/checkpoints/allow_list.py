"""Pickles that may hold a few harmless types beside weights, and nothing else."""
import codecs
import pickle
from argparse import Namespace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# Before torch 2.6, ``weights_only`` knows no types but its own, or not under another name.
EXTENDABLE = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


def _statistic(owner: type, name: str):
    """``getattr`` for one purpose: the methods of a HistoryBuffer, which is how pickle names them.

    The real one would let a file reach for anything.
    """
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr of {owner}')
    return getattr(owner, name)


_MULTIARRAY = import_module(
    'numpy.core.multiarray' if np.__version__.startswith('1.') else 'numpy._core.multiarray')
# What trainers keep beside tensors. mmengine 0.10: curves of losses, as NumPy arrays, and its seed
# (open-mmlab/mmengine#1655); timm's and others' scripts: their arguments. An entry is a type, or
# (object, name) where files have another name for it.
SAFE_TYPES = [
    HistoryBuffer, Namespace, np.ndarray, np.dtype,
    *(getattr(np.dtypes, f'{kind}DType') for kind in
      ('Float64', 'Float32', 'Float16', 'Int64', 'Int32', 'Int16', 'Int8', 'UInt8', 'Bool')),
    (_statistic, 'builtins.getattr'),
    # NumPy 1 and 2 name the same function differently in the files they write.
    *((getattr(_MULTIARRAY, function), f'numpy.{core}.multiarray.{function}')
      for function in ('_reconstruct', 'scalar') for core in ('core', '_core')),
]


def register_safe_types() -> None:
    """Let ``torch.load`` with ``weights_only``, torch's default since 2.6, read these types.

    The toolkits' own readers (``init_detector``, ``init_model``, inferencers, ``tools/test.py``)
    call it with that default, and otherwise fail on mmengine's checkpoints.
    """
    if EXTENDABLE:
        torch.serialization.add_safe_globals(SAFE_TYPES)


def load(path) -> object:
    """``torch.load`` onto the CPU with ``weights_only``, whatever the version of torch.

    Args:
        path: Path of the file.

    Raises:
        pickle.UnpicklingError: If it names anything that is not in ``SAFE_TYPES``.
    """
    if EXTENDABLE:
        with torch.serialization.safe_globals(SAFE_TYPES):
            return torch.load(path, map_location='cpu', weights_only=True)
    return torch.load(path, map_location='cpu', weights_only=False,
                      pickle_module=_restricted_pickle())


def _restricted_pickle() -> SimpleNamespace:
    """What torch.load needs of the module pickle, with a reader that finds no other names."""
    known = dict(torch._weights_only_unpickler._get_allowed_globals())
    known['_codecs.encode'] = codecs.encode  # makes bytes, and torch >= 2.6 allows it, too
    for entry in SAFE_TYPES:
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
