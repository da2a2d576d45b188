"""What files may hold beside weights: the harmless types that trainers leave in them, no others.

torch's ``weights_only`` reads tensors and plain containers. Real checkpoints also hold mmengine's
curves of losses, NumPy's numbers, the arguments of a command line, settings and paths. Here is what
is made of each; where the real type could do harm, something less takes its place.
"""
import codecs
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

# Before torch 2.6, ``weights_only`` knows no types but its own, or not under another name.
EXTENDABLE = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16')


def _dtype(code: str, *_) -> np.dtype:
    """NumPy's dtypes of numbers, the shared ones, which no state in a file can change.

    A copy, which the real function makes, takes any state: said to have fields of objects, the
    bytes of an array would be taken for pointers.
    """
    if code not in NUMBERS:
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype of {code!r}')
    return np.dtype(code)


def _empty_array(*_) -> np.ndarray:
    """What is made of an array before its state, dtype and bytes, is set and checked by NumPy."""
    return np.empty(0, 'b')


def _statistic(owner: type, name: str):
    """``getattr`` for one purpose: the methods of a HistoryBuffer, which is how pickle names them.

    The real one would let a file reach for anything.
    """
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr of {owner}')
    return getattr(owner, name)


def _plain_dict(*_) -> dict:
    """A dict with a default; the default is not kept."""
    return {}


_SCALAR = np.float64(0).__reduce__()[0]
# By the names that files use, which are not always those of today's modules.
KNOWN = {
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'builtins.getattr': _statistic,
    'numpy.dtype': _dtype,
    'numpy.ndarray': _empty_array,
    # NumPy 1 and 2 name the same functions differently in the files they write.
    **{f'numpy.{core}.multiarray.{name}': made for core in ('core', '_core')
       for name, made in [('_reconstruct', _empty_array), ('scalar', _SCALAR)]},
    # timm, DeiT, and whatever keeps its command line.
    'argparse.Namespace': Namespace,
    # Settings, as plain dicts: yacs (Swin, detectron2), mmcv, mmengine, Lightning, easydict.
    **dict.fromkeys([
        'yacs.config.CfgNode', 'fvcore.common.config.CfgNode', 'detectron2.config.config.CfgNode',
        'mmcv.utils.config.ConfigDict', 'mmengine.config.config.ConfigDict', 'addict.addict.Dict',
        'easydict.EasyDict', 'pytorch_lightning.utilities.parsing.AttributeDict',
        'lightning_fabric.utilities.data.AttributeDict',
        'lightning.fabric.utilities.data.AttributeDict'], OrderedDict),
    'collections.defaultdict': _plain_dict,
    **{f'builtins.{kind.__name__}': kind for kind in (int, float, list, dict)},
    # Paths that any system can read, whichever wrote them; Python 3.13 names them otherwise.
    **{f'{module}.{prefix}{kind.__name__[4:]}': kind for module in ('pathlib', 'pathlib._local')
       for prefix in ('', 'Pure') for kind in (PurePosixPath, PureWindowsPath)},
}
# torch sets the state only of objects whose type it was told. A pickle's names have a dot, so that
# no file can name these.
WITH_STATE = {kind.__name__: kind
              for kind in {np.ndarray, *(type(np.dtype(code)) for code in NUMBERS)}}


def register_safe_types() -> None:
    """Let ``torch.load`` with ``weights_only`` read them, for everyone in this process.

    The toolkits' own tools load with torch.load, whose default that is since torch 2.6; older
    torch cannot be told.
    """
    if EXTENDABLE:
        # Pairs, which no ``safe_globals([Namespace])`` of others takes away when it ends.
        torch.serialization.add_safe_globals(
            [(made, name) for name, made in {**KNOWN, **WITH_STATE}.items()])


def load(path) -> object:
    """``torch.load`` onto the CPU with ``weights_only``, whatever the version of torch.

    Args:
        path: Path of the file.

    Raises:
        pickle.UnpicklingError: If it names something that is not allowed.
    """
    if EXTENDABLE:
        register_safe_types()  # somebody may have cleared the list
        return torch.load(path, map_location='cpu', weights_only=True)
    return torch.load(path, map_location='cpu', weights_only=False, pickle_module=_restricted())


def _restricted() -> SimpleNamespace:
    """What torch.load needs of the module pickle, with a reader that finds no other names."""
    # torch >= 2.6 allows the encoding, which makes bytes, too.
    known = {'_codecs.encode': codecs.encode, **KNOWN,
             **torch._weights_only_unpickler._get_allowed_globals()}

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
