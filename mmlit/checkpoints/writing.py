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

METADATA = 'mmlit'  # the entry of a .safetensors file's metadata that holds ``meta``, as JSON
TEMPORARY = re.compile(r'\..*\.[0-9a-f]{8}\.tmp(\.\w+)?')  # names that `temporary_name` gives


def temporary_name(path: str | Path) -> Path:
    """A name beside ``path`` with its suffix, which no other process or thread writes to."""
    path = Path(path)
    # Cut, for with what is added a long name may be too long for the file system.
    return path.with_name(f'.{path.stem[:50]}.{secrets.token_hex(4)}.tmp{path.suffix}')


def replace_when_whole(partial: str | Path, final: str | Path, overwrite: bool = True) -> None:
    """Give a file that is written its final name, once it is on the disk.

    Args:
        partial: The written file, in the folder of ``final``.
        final: Its name from now on; a file of that name is replaced in one step.
        overwrite: False raises OutputError if there is such a file.
    """
    with open(partial, 'rb') as f:
        os.fsync(f.fileno())
    if overwrite:
        os.replace(partial, final)
        return
    try:
        os.link(partial, final)  # which no file that has come meanwhile survives unnoticed
        os.unlink(partial)
    except FileExistsError:
        raise _exists(final) from None
    except OSError:  # a file system without hard links
        refuse_existing(final)
        os.replace(partial, final)


@contextmanager
def written_whole(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Give a file its name when the block that writes it has ended well.

    Args:
        path: Where it goes; folders above are made, and a file of that name is replaced.
        overwrite: False raises OutputError if there is such a file, before the block and after it.

    Yields:
        Where to write it: beside ``path``, with the same suffix.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_name(path)
    try:
        yield partial
        replace_when_whole(partial, path, overwrite)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Refuse to replace what is there.

    Raises:
        OutputError: If ``path`` exists, and ``overwrite`` is False.
    """
    if not overwrite and os.path.lexists(path):
        raise _exists(path)


def _exists(path: str | Path) -> OutputError:
    return OutputError(f'{path} exists, and is not overwritten: choose another name, or say '
                       '--overwrite (overwrite=True)')


def save_weights(checkpoint: dict, path: str | Path, overwrite: bool = False) -> None:
    """Write a checkpoint of weights and, perhaps, ``meta``; the same content gives the same bytes.

    Args:
        checkpoint: Such as ``dict(state_dict={...}, meta={...})``.
        path: ``.pth``, or ``.safetensors``, which holds the weights without the top key, and
            ``meta`` as JSON in its metadata.
        overwrite: Whether a file of that name is replaced.

    Raises:
        CheckpointError: If the name ends otherwise, or JSON cannot hold the meta.
        OutputError: If the file exists and is not to be overwritten.
    """
    path = Path(path)
    if path.suffix not in ('.pth', '.safetensors'):
        raise CheckpointError(f'{path}: a checkpoint ends with .pth or .safetensors')
    with written_whole(path, overwrite) as partial:
        if path.suffix == '.pth':
            with open(partial, 'wb') as file:  # given a path, torch writes its name into the file
                torch.save(checkpoint, file)
            return
        meta = checkpoint.get('meta')
        (state, ) = (value for key, value in checkpoint.items() if key != 'meta')
        # Copies, for two names may share memory, which the format refuses.
        state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
        # One entry at most: the library writes several in an order that changes from run to run.
        save_file(state, partial, {METADATA: _json(meta)} if meta else {'format': 'pt'})


def _json(meta: dict) -> str:
    try:
        return json.dumps(meta, default=lambda value: value.tolist())  # NumPy's numbers
    except (AttributeError, TypeError, ValueError) as e:
        raise CheckpointError('.safetensors holds numbers, texts, lists and dicts beside weights, '
                              f'and meta has something else ({e}): write a .pth') from None
