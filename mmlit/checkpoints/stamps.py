"""The beginning of a file's SHA-256 at the end of its name, as OpenMMLab and torch hub write it."""
import hashlib
import re
from pathlib import Path

from mmlit.errors import CheckpointError

CHUNK = 2**20  # bytes
# With a letter in it: digits alone may be a date or a number of steps.
STAMP = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$')


def sha256(path: str | Path) -> str:
    """Of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def stamped(path: Path, digest: str) -> Path:
    """A path with a stamp: eight digits, or as many as it takes to have a letter among them."""
    length = next(n for n in range(8, 65) if not digest[:n].isdigit() or n == 64)
    return path.with_name(f'{path.stem}-{digest[:length]}{path.suffix}')


def check_stamp(path: Path, source: str | Path) -> None:
    """Compare a file with the stamp in its name, if there is one.

    Args:
        path: The file.
        source: Where it comes from, for the message.

    Raises:
        CheckpointError: If it is another file.
    """
    stamp = STAMP.search(path.name)
    if stamp and not (digest := sha256(path)).startswith(stamp[1]):
        raise CheckpointError(f'{source} is another file than its name says: its SHA-256 begins '
                              f'with {digest[:len(stamp[1])]}, not {stamp[1]}. Get it again, or '
                              'rename it if it was changed on purpose')
