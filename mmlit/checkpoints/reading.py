"""From a file or URL to the weights in it, without running any code that it may hold."""
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmlit.errors import CheckpointError

from .allow_list import SAFE_TYPES, load
from .downloading import check_stamp, download
from .writing import METADATA

# What codebases call the weights at the top of a checkpoint; the first of these that is there
# counts. Of a weight and its average, that is what the trainers test: mmengine swaps them.
STATE_DICT_KEYS = ('state_dict', 'model', 'model_state_dict', 'net', 'network', 'weights',
                   'state_dict_ema', 'model_ema', 'ema_state_dict', 'ema', 'module')
# Names under which a weight is a number that is trained or averaged, never a counter or an index.
REAL = re.compile(r'(^|\.)(weight|bias|gamma\w*|running_mean|running_var)$')
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)


def read_checkpoint(source: str | Path) -> dict:
    """Read a checkpoint onto the CPU, with ``weights_only``.

    Args:
        source: Path of a file (``.safetensors``, or what ``torch.save`` wrote), or an https URL,
            which is kept in torch hub's cache.

    Returns:
        The whole checkpoint. Of ``.safetensors``: the weights under ``state_dict``, and ``meta``,
        if mmlit wrote one.

    Raises:
        CheckpointError: If the file is missing, truncated, damaged, not a checkpoint, not the one
            that the hash in its name says, or holds pickled objects other than tensors, plain
            containers and the harmless types of :data:`mmlit.checkpoints.allow_list.SAFE_TYPES`,
            or a download fails.
    """
    source = str(source)
    path = download(source) if re.match(r'https?://', source, re.IGNORECASE) else Path(source)
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path.absolute()} does not exist or is not a file')
    try:
        check_stamp(path)
    except CheckpointError as e:
        raise CheckpointError(f'{e} ({path.absolute()}). Download it again, or rename it if you '
                              'changed it') from None
    loaded = (_read_safetensors if path.suffix == '.safetensors' else _read_pickled)(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(loaded).__name__}, not a dict of '
                              'weights')
    return loaded


def state_dict_of(checkpoint: dict) -> dict[str, Tensor]:
    """Weights of a checkpoint, whatever its top key is.

    Raises:
        CheckpointError: If it holds no tensors, or some that cannot be weights.
    """
    for key in STATE_DICT_KEYS:
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    state = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError('it holds no weights; its keys are '
                              f'{[str(k) for k in list(checkpoint)[:5]]}')
    for name, value in state.items():
        problem = _why_no_weight(name, value)
        if problem:
            raise CheckpointError(f'{str(name)!r} in it {problem}')
    return state


def check_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are nan or infinite.

    Raises:
        CheckpointError: Naming the first of them.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f'checkpoint {source}: {name} holds numbers that are not finite '
                                  '(NaN or infinite): the training that made it had failed, or the '
                                  'file is damaged')


def _why_no_weight(name: object, value: Tensor) -> str | None:
    """What keeps a tensor from being copied into a model as it is, or None."""
    if not isinstance(name, str):
        return f'is no name of a weight: it is a {type(name).__name__}'
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        kind = 'nested' if value.is_nested else 'quantized' if value.is_quantized else value.layout
        return f'is not an ordinary tensor: it is {kind}'
    if value.is_meta:
        return 'has a shape, but no numbers'
    if value.dtype not in DTYPES:
        return f'holds {value.dtype}, which are no weights of LITv2'
    if REAL.search(name) and not value.is_floating_point():
        return (f'holds {value.dtype}, where weights are floating point. Integers are of a '
                'quantised model, whose scales are elsewhere: save it dequantised')
    size = value.numel() * value.element_size()
    if size > value.untyped_storage().nbytes() and size > 2**31:
        return f'is one number repeated: it would take {size / 2**30:.0f} GiB'
    return None


def _read_safetensors(path: Path) -> dict:
    try:
        with safe_open(path, framework='pt') as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = (file.metadata() or {}).get(METADATA)
        return dict(state_dict=state, **({'meta': json.loads(meta)} if meta else {}))
    except (SafetensorError, OSError, ValueError) as e:
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

    ``torch.save`` compresses nothing. A small file with compressed entries may be gigabytes of
    zeros.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        compressed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
        if compressed:
            raise ValueError(f'{compressed[0]} in it is compressed, which torch.save does not do')
        if sum(e.file_size for e in entries) > path.stat().st_size:
            raise ValueError('its entries are larger than the whole: they overlap')
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f'the checksum of {bad} in it is wrong')


def _refused_types(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Names of the types that ``weights_only`` refuses: all, or at least the first one met."""
    # torch's message names the object that it refused to make.
    found = re.search(r'(?:GLOBAL|class|function) ([\w.]+)', str(error))
    if not found or 'nsupported' not in str(error):
        return []
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return sorted(names) or [found[1]]
    except Exception:  # torch < 2.6, or not the format of torch >= 1.6
        return [found[1]]


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else 'empty file'
    return CheckpointError(f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or '
                           f'damaged: {reason}. Copy or download it again.')
