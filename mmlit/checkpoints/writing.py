"""Files written whole or not at all."""
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmlit.errors import CheckpointError, OutputError

METADATA = 'mmlit.meta'  # .safetensors files hold under it what .pth files have as `meta`

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
def written_whole(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a file its name when the block that writes it has ended well.

    Args:
        path: Where it goes; folders above are made.
        overwrite: Whether a file of that name is replaced.

    Yields:
        Where to write it: beside ``path``, with the same suffix.

    Raises:
        OutputError: If ``path`` exists and is not to be replaced, before anything is written, or
            when another process wrote it in the meantime.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_name(path)
    try:
        yield partial
        refuse_existing(path, overwrite)
        replace_when_whole(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Refuse to replace what is there.

    Raises:
        OutputError: If ``path`` exists, and ``overwrite`` is False.
    """
    if not overwrite and os.path.lexists(path):
        raise OutputError(f'{path} exists already, and would be replaced: name another file, or '
                          'say --overwrite (overwrite=True in Python)')


def refuse_same_file(source: str | Path, target: str | Path) -> None:
    """Refuse to write over what is read, through links, too.

    Raises:
        OutputError: If both are one file.
    """
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise OutputError(f'{target} is the file that is read: it would lose what is left out '
                          '(optimizer, schedule). Name another file')


def save_weights(checkpoint: dict, path: str | Path, overwrite: bool = False) -> None:
    """Write a checkpoint that is one dict of weights under its top key.

    Args:
        checkpoint: Such as ``dict(state_dict={...})``; ``meta`` may stand beside it.
        path: ``.pth``, or ``.safetensors``, which holds the weights without the top key, and
            ``meta`` as JSON.
        overwrite: Whether a file of that name is replaced.

    Raises:
        CheckpointError: If the name ends otherwise.
        OutputError: If it exists and is not to be replaced.
    """
    path = Path(path)
    if path.suffix not in ('.pth', '.safetensors'):
        raise CheckpointError(f'{path}: a checkpoint ends with .pth or .safetensors')
    with written_whole(path, overwrite) as partial:
        if path.suffix == '.pth':
            with open(partial, 'wb') as file:  # of a path, torch writes the name into the file
                torch.save(checkpoint, file)
            return
        (state, ) = (value for key, value in checkpoint.items() if key != 'meta')
        meta = checkpoint.get('meta')
        # Copies: two names may share memory, which the format refuses.
        save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()},
                  partial, {METADATA: json.dumps(meta, default=str)} if meta else None)
