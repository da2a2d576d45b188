"""From a file or URL to the weights in it, without running any code that it may hold."""
import json
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmlit.errors import CheckpointError

from .allow_list import load
from .downloading import download
from .stamps import check_stamp
from .writing import METADATA

# What the known codebases call the weights at the top of a checkpoint. Where several are there, the
# first is taken: it is what the trainer itself tests by default. (mmengine's EMAHook swaps: under
# ``state_dict`` it keeps the average.)
STATE_DICT_KEYS = (
    'state_dict', 'model_state_dict', 'model', 'net', 'network', 'module', 'params', 'weights',
    'model_state')
AVERAGE_KEYS = (
    'state_dict_ema', 'ema_state_dict', 'model_ema', 'ema_model', 'model_ema_state_dict',
    'params_ema', 'ema')
COUNTERS = ('steps', 'n_averaged')  # of updates, in the averages of mmengine and torch


def read_checkpoint(source: str | Path) -> dict:
    """Read a checkpoint onto the CPU, with ``weights_only``.

    Args:
        source: Path of a file (``.safetensors``, or what ``torch.save`` wrote), or an https URL,
            which is kept in torch hub's cache.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If the file is missing, truncated, damaged, not a checkpoint, another than
            the hash in its name says, or holds pickled objects other than tensors, plain containers
            and what :mod:`.allow_list` knows, or a download fails.
    """
    source = str(source)
    path = download(source) if '://' in source else Path(source)
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path.absolute()} does not exist or is not a file')
    check_stamp(path, f'checkpoint {path}')
    read = _read_safetensors if path.suffix == '.safetensors' else _read_pickled
    loaded = read(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(loaded).__name__}, not a dict of '
                              'weights')
    return loaded


def state_dict_of(checkpoint: dict) -> dict[str, Tensor]:
    """Weights of a checkpoint, whatever its top key is.

    Under a known key (:data:`STATE_DICT_KEYS` before :data:`AVERAGE_KEYS`), else at the top, else
    under the only key that has tensors.

    Raises:
        CheckpointError: If it holds no tensors, or several keys of which none is known do.
    """
    for key in (*STATE_DICT_KEYS, *AVERAGE_KEYS):
        if _holds_weights(checkpoint.get(key)):
            state = state_dict_of(checkpoint[key])
            if key in AVERAGE_KEYS:
                state = {k: v for k, v in state.items() if k not in COUNTERS}
            return state
    state = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
    if state:
        return state
    found = [key for key, value in checkpoint.items() if _holds_weights(value)]
    if len(found) == 1:
        return state_dict_of(checkpoint[found[0]])
    if found:
        raise CheckpointError(f'several of its keys hold weights, {found}: re-save it with those '
                              "to use under 'state_dict'")
    raise CheckpointError('it holds no weights; its keys are '
                          f'{[str(k) for k in list(checkpoint)[:5]]}')


def _holds_weights(value: object) -> bool:
    """Whether there are tensors in it, perhaps under a known key of its own."""
    return isinstance(value, dict) and (
        any(isinstance(v, Tensor) for v in value.values())
        or any(_holds_weights(value.get(key)) for key in (*STATE_DICT_KEYS, *AVERAGE_KEYS)))


def _read_safetensors(path: Path) -> dict:
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise _damaged(path, e) from None
    if METADATA not in metadata:
        return state
    try:
        return dict(state_dict=state, meta=json.loads(metadata[METADATA]))
    except ValueError as e:
        raise _damaged(path, e) from None


def _read_pickled(path: Path) -> object:
    with open(path, 'rb') as file:
        head = file.read(64).lstrip()
    if head.startswith(b'<'):
        raise CheckpointError(f'{path} is not a PyTorch checkpoint but a web page, perhaps of an '
                              f'error; it begins with {head[:20].decode(errors="replace")!r}. '
                              'Download the file itself.')
    try:
        check_sums(path)
        return load(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as e:
        refused = _refused_types(path, e)
        if not refused:  # torch refuses what is no pickle at all in the same way
            raise CheckpointError(f'{path} is not a PyTorch checkpoint') from None
        raise CheckpointError(
            f'checkpoint {path} is refused: beside weights it holds pickled objects, '
            f'{", ".join(refused)}, and loading such objects can run code. Re-save it with its '
            'state_dict alone.') from None
    except Exception as e:  # a damaged pickle can make its reader fail in any way
        raise _damaged(path, e) from None


def check_sums(path: Path) -> None:
    """Compare the checksums of a zip archive, which torch writes but does not compare.

    Raises:
        CheckpointError: If it is not stored as ``torch.save`` stores, so that reading it could take
            far more memory than its size.
        ValueError: If a checksum is wrong.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist())
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f'the checksum of {bad} in it is wrong')


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Each entry is a part of the file of its own, uncompressed."""
    names, end = set(), 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problem = f'{entry.filename} in it is compressed'
        elif entry.filename in names:
            problem = f'{entry.filename} is in it twice'
        elif entry.header_offset < end:
            problem = f'{entry.filename} in it overlaps another entry'
        else:
            names.add(entry.filename)
            end = entry.header_offset + entry.file_size
            continue
        raise CheckpointError(f'checkpoint {path} is refused: {problem}, which torch.save never '
                              'does. Re-save it with torch.save.')


def _refused_types(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Names of the types that ``weights_only`` refuses: all, or at least the first one met."""
    # torch's message names the object that it refused to make.
    found = re.search(r'(?:GLOBAL|class|function) ([\w.]+)', str(error))
    if not found or 'nsupported' not in str(error):
        return []
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return sorted(names) or [found[1]]
    except Exception:  # torch < 2.6, or not the format of torch >= 1.6
        return [found[1]]


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else 'empty file'
    return CheckpointError(f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or '
                           f'damaged: {reason}. Copy or download it again.')
