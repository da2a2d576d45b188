"""Files from the web, whole or not at all, in torch hub's cache."""
import hashlib
import http.client
import re
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from tqdm import tqdm

from mmlit.errors import CheckpointError

from .writing import replace_when_whole

CHUNK = 2**20  # bytes
TIMEOUT = 60  # seconds without any data
# OpenMMLab's and torch hub's custom: the file's name ends with the beginning of its SHA-256.
STAMP = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


def download(url: str) -> Path:
    """The file behind a URL, from torch hub's cache or, the first time, from the web.

    It is downloaded beside its place and gets its name once it has the size that the server
    announced and, where its name carries one (``litv2_s-0a1b2c3d.pth``), the hash.

    Args:
        url: http or https.

    Returns:
        Its path, ``torch.hub.get_dir()/checkpoints/NAME``. A file that is there is not checked
        again, and needs no connection.

    Raises:
        CheckpointError: If the server does not answer, breaks off, or sends another file.
    """
    name = unquote(Path(urlparse(url).path).name)
    target = Path(torch.hub.get_dir()) / 'checkpoints' / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{name}.', dir=target.parent) as folder:
        partial = Path(folder) / name
        try:
            size, digest = _fetch(url, partial)
        except (OSError, http.client.HTTPException) as e:
            raise CheckpointError(
                f'could not download {url}: {e}. Without a connection, put the file at {target}.'
            ) from None
        received = partial.stat().st_size
        if size is not None and received != size:
            raise CheckpointError(f'the download of {url} broke off after {received} of {size} '
                                  'bytes; nothing was kept. Try again.')
        stamp = STAMP.search(name)
        if stamp and not digest.startswith(stamp[1]):
            raise CheckpointError(f'{url} sent another file than its name says: its SHA-256 begins '
                                  f'with {digest[:8]}, not {stamp[1]}; nothing was kept')
        replace_when_whole(partial, target)
    return target


def _fetch(url: str, path: Path) -> tuple[int | None, str]:
    """Write what a URL sends; return the size that the server announced, and the SHA-256."""
    request = urllib.request.Request(url, headers={'User-Agent': 'mmlit'})
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, open(path, 'wb') as file:
        length = answer.headers.get('Content-Length')
        size = int(length) if length else None
        with tqdm(total=size, unit='B', unit_scale=True, desc=path.name, file=sys.stderr) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    return size, digest.hexdigest()
