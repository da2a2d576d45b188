"""From a file or URL to the weights in it, without running any code that it may hold."""
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmlit.errors import CheckpointError

from .allow_list import load
from .downloading import download

# What the known codebases call the weights at the top of a checkpoint.
STATE_DICT_KEYS = ('state_dict', 'model', 'state_dict_ema', 'model_ema')


def read_checkpoint(source: str | Path, allowed: Sequence[type] = ()) -> dict:
    """Read a checkpoint onto the CPU, with ``weights_only``.

    Args:
        source: Path of a file (``.safetensors``, or what ``torch.save`` wrote), or an http(s) URL,
            which is kept in torch hub's cache.
        allowed: Harmless types that the checkpoints of a toolkit hold beside weights.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If the file is missing, truncated, damaged, not a checkpoint, or holds
            pickled objects other than tensors and plain containers, or a download fails.
    """
    source = str(source)
    path = download(source) if source.startswith(('http://', 'https://')) else Path(source)
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path.absolute()} does not exist or is not a file')
    read = _read_safetensors if path.suffix == '.safetensors' else _read_pickled
    loaded = read(path, allowed)
    if not isinstance(loaded, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(loaded).__name__}, not a dict of '
                              'weights')
    return loaded


def state_dict_of(checkpoint: dict) -> dict[str, Tensor]:
    """Weights of a checkpoint, whatever its top key is.

    Raises:
        CheckpointError: If it holds no tensors.
    """
    for key in STATE_DICT_KEYS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError('it holds no weights; its keys are '
                              f'{[str(k) for k in list(checkpoint)[:5]]}')
    return state


def _read_safetensors(path: Path, allowed: Sequence[type]) -> dict:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise _damaged(path, e) from None


def _read_pickled(path: Path, allowed: Sequence[type]) -> object:
    with open(path, 'rb') as file:
        head = file.read(64).lstrip()
    if head.startswith(b'<'):
        raise CheckpointError(f'{path} is not a PyTorch checkpoint but a web page, perhaps of an '
                              f'error; it begins with {head[:20].decode(errors="replace")!r}. '
                              'Download the file itself.')
    try:
        check_sums(path)
        return load(path, allowed)
    except pickle.UnpicklingError as e:
        refused = _refused_types(path, e, allowed)
        if not refused:  # torch refuses what is no pickle at all in the same way
            raise CheckpointError(f'{path} is not a PyTorch checkpoint') from None
        raise CheckpointError(
            f'checkpoint {path} is refused: beside weights it holds pickled objects, '
            f'{", ".join(refused)}, and loading such objects can run code. Re-save it with its '
            'state_dict alone.') from None
    except Exception as e:  # a damaged pickle can make its reader fail in any way
        raise _damaged(path, e) from None


def check_sums(path: Path) -> None:
    """Compare the checksums of a zip archive, which torch writes but does not compare."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f'the checksum of {bad} in it is wrong')


def _refused_types(path: Path, error: pickle.UnpicklingError, allowed: Sequence[type]) -> list[str]:
    """Names of the types that ``weights_only`` refuses: all, or at least the first one met."""
    # torch's message names the object that it refused to make.
    found = re.search(r'(?:GLOBAL|class|function) ([\w.]+)', str(error))
    if not found or 'nsupported' not in str(error):
        return []
    try:
        with torch.serialization.safe_globals(allowed):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return sorted(names) or [found[1]]
    except Exception:  # torch < 2.6, or not the format of torch >= 1.6
        return [found[1]]


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else 'empty file'
    return CheckpointError(f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or '
                           f'damaged: {reason}. Copy or download it again.')
