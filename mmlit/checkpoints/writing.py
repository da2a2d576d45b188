"""Files written whole or not at all."""
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmlit.errors import CheckpointError

TEMPORARY = re.compile(r'\..*\.[0-9a-f]{8}\.tmp(\.\w+)?')  # names that `temporary_name` gives


def temporary_name(path: str | Path) -> Path:
    """A name beside ``path`` with its suffix, which no other process or thread writes to."""
    path = Path(path)
    # Cut, for with what is added a long name may be too long for the file system.
    return path.with_name(f'.{path.stem[:50]}.{secrets.token_hex(4)}.tmp{path.suffix}')


def replace_when_whole(partial: str | Path, final: str | Path) -> None:
    """Give a file that is written its final name, once it is on the disk.

    Args:
        partial: The written file, in the folder of ``final``.
        final: Its name from now on; a file of that name is replaced in one step.
    """
    with open(partial, 'rb') as f:
        os.fsync(f.fileno())
    os.replace(partial, final)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a file its name when the block that writes it has ended well.

    Args:
        path: Where it goes; folders above are made, and a file of that name is replaced.

    Yields:
        Where to write it: beside ``path``, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_name(path)
    try:
        yield partial
        replace_when_whole(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_weights(checkpoint: dict, path: str | Path) -> None:
    """Write a checkpoint that is one dict of weights under its top key.

    Args:
        checkpoint: Such as ``dict(state_dict={...})``.
        path: ``.pth``, or ``.safetensors``, which holds the weights without the top key.

    Raises:
        CheckpointError: If the name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in ('.pth', '.safetensors'):
        raise CheckpointError(f'{path}: a checkpoint ends with .pth or .safetensors')
    with written_whole(path) as partial:
        if path.suffix == '.pth':
            torch.save(checkpoint, partial)
        else:
            (state, ) = checkpoint.values()
            save_file({k: v.contiguous() for k, v in state.items()}, partial)
