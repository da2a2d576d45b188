"""Checkpoints of a running training: written whole or not at all, and found again."""
import os
import re
from pathlib import Path


def replace_when_whole(partial: str | Path, final: str | Path) -> None:
    """Give a file that is written its final name, once it is on the disk.

    Args:
        partial: The written file, in the folder of ``final``.
        final: Its name from now on; a file of that name is replaced in one step.
    """
    with open(partial, 'rb') as f:
        os.fsync(f.fileno())
    os.replace(partial, final)


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """Last checkpoint (``epoch_N.pth`` or ``iter_N.pth``) in a work dir, or None."""
    found = {int(m[1]): p for p in Path(work_dir).glob('*.pth')
             if (m := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', p.name))}
    return found[max(found)] if found else None
