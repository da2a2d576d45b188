"""From a file or URL to the weights in it, without running any code that it may hold."""
import pickle
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from mmlit.errors import CheckpointError

# What the known codebases call the weights at the top of a checkpoint.
STATE_DICT_KEYS = ('state_dict', 'model')


def read_checkpoint(source: str | Path, allowed: Sequence[type] = ()) -> dict:
    """Read a checkpoint onto the CPU, with ``weights_only``.

    Args:
        source: Path of a file, or an http(s) URL, which is kept in torch hub's cache.
        allowed: Harmless types that the checkpoints of a toolkit hold beside weights.

    Returns:
        The whole checkpoint.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, or holds pickled
            objects other than tensors and plain containers.
    """
    source = str(source)
    if source.startswith(('http://', 'https://')):
        try:
            return torch.hub.load_state_dict_from_url(source, map_location='cpu', weights_only=True)
        except OSError as e:
            raise CheckpointError(f'could not download the checkpoint {source}: {e}') from e
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path.absolute()} does not exist or is not a file')
    try:
        with torch.serialization.safe_globals(allowed) if allowed else nullcontext():
            return _as_dict(torch.load(path, map_location='cpu', weights_only=True), path)
    except pickle.UnpicklingError as e:
        # torch's message names the object that it refused to make; without such a name the file
        # is no pickle at all.
        refused = re.search(r'(?:GLOBAL|class|function) ([\w.]+)', str(e))
        if refused and 'nsupported' in str(e):
            raise CheckpointError(
                f'checkpoint {path} is refused: beside weights it holds the pickled object '
                f'{refused[1]}, and loading such objects can run code. Re-save it with its '
                'state_dict alone.') from None
        raise CheckpointError(f'{path} is not a PyTorch checkpoint') from None
    except (RuntimeError, EOFError, ValueError, KeyError) as e:
        raise CheckpointError(f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or '
                              f'damaged: {str(e).splitlines()[0] if str(e) else "empty file"}. '
                              'Copy or download it again.') from None


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


def _as_dict(loaded: object, path: Path) -> dict:
    if not isinstance(loaded, dict):
        raise CheckpointError(f'checkpoint {path} holds a {type(loaded).__name__}, not a dict of '
                              'weights')
    return loaded
