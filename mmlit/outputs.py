"""Files that tools write: whether they can be is asked before the work that fills them."""
import json
import math
import os
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from mmlit.checkpoints import refuse_existing, written_whole
from mmlit.errors import OutputError


def add_overwrite(parser: ArgumentParser) -> None:
    """The argument of tools without which they replace no file."""
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')


def check_writable(path: str | Path, overwrite: bool = False, suffix: str = '') -> None:
    """Refuse an output that could not be written, before anything is done for it.

    Makes nothing: folders that are not there count by the nearest one above.

    Args:
        path: A file to be.
        overwrite: Whether a file of that name may be replaced.
        suffix: What its name must end with.

    Raises:
        OutputError: If it could not be written there, or exists and is not to be replaced.
    """
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise OutputError(f'{path}: the file must end with {suffix}')
    _check_place(path)
    refuse_existing(path, overwrite)


def _check_place(path: Path) -> None:
    if os.path.isdir(path):  # unlike Path's, it takes names that are too long
        raise OutputError(f'cannot write {path}: it is a folder; name a file')
    above = path.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    if not os.path.isdir(above):
        raise OutputError(f'cannot write {path}: {above} is not a folder')
    longest = os.pathconf(above, 'PC_NAME_MAX')
    for part in path.absolute().relative_to(above).parts:
        if len(os.fsencode(part)) > longest:
            raise OutputError(f'cannot write {path}: a name in it is longer than {longest} bytes')
    if len(os.fsencode(path.absolute())) >= os.pathconf(above, 'PC_PATH_MAX'):
        raise OutputError(f'cannot write {path}: the path is too long')
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f'cannot write {path}: {above} does not let this user write')
    if os.statvfs(above).f_bavail == 0:
        raise OutputError(f'cannot write {path}: no space is left on the disk of {above}')


def plain(value):
    """Anything as what JSON holds: numbers of NumPy and PyTorch as numbers, tensors as lists.

    JSON has no numbers that are not finite: they become None. What is nothing of these becomes its
    text.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if hasattr(value, 'tolist'):  # of NumPy or PyTorch; one number if there is one
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def line(name: str, value) -> str:
    """A result as one line for people: four digits of numbers, a number that is none as well."""
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, float):
        return f'{name}: {value:.4g}'
    return f'{name}: {value if isinstance(value, str) else json.dumps(plain(value))}'


def write_json(path: str | Path, content, overwrite: bool = True) -> None:
    """Write anything as JSON, as a whole; see :func:`plain`."""
    with written_whole(path, overwrite) as partial:
        partial.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + '\n',
                           encoding='utf-8')
