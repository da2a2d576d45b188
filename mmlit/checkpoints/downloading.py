"""Files from the web, whole or not at all, in torch hub's cache."""
import datetime
import hashlib
import http.client
import re
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from tqdm import tqdm

from mmlit.errors import CheckpointError

from .writing import replace_when_whole

CHUNK = 2**20  # bytes
TIMEOUT = 60  # seconds without any data
# OpenMMLab's and torch hub's custom: the file's name ends with the beginning of its SHA-256.
STAMP = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def download(url: str) -> Path:
    """The file behind a URL, from torch hub's cache or, the first time, from the web.

    It is downloaded beside its place and gets its name once it has the size that the server
    announced and, where its name carries one (``litv2_s-0a1b2c3d.pth``), the hash.

    Args:
        url: https; http on this machine only.

    Returns:
        Its path, see :func:`cached_path`. A file that is there needs no connection.

    Raises:
        CheckpointError: If the URL is not https, the server does not answer, breaks off, sends
            another file, or sends on to an address that is not https.
    """
    _check_scheme(url)
    target = cached_path(url)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.download.', dir=target.parent) as folder:
        partial = Path(folder) / target.name
        try:
            size = _fetch(url, partial)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise CheckpointError(
                f'could not download {url}: {e}. Without a connection, put the file at {target}.'
            ) from None
        received = partial.stat().st_size
        if size is not None and received != size:
            raise CheckpointError(f'the download of {url} broke off after {received} of {size} '
                                  'bytes; nothing was kept. Try again.')
        try:
            check_stamp(partial)
        except CheckpointError as e:
            raise CheckpointError(f'{url} sent another file than its name says: {e}; nothing was '
                                  'kept') from None
        replace_when_whole(partial, target)
    return target


def cached_path(url: str) -> Path:
    """Where the file behind a URL is kept: ``checkpoints/mmlit/HASH/NAME`` in torch hub's folder.

    Names such as ``model.safetensors`` are given to many files, so HASH is the beginning of the
    SHA-256 of the whole URL. NAME has no character in it that a file system takes for a path.
    """
    name = unquote(urlsplit(url).path).replace('\\', '/').rstrip('/').rpartition('/')[2]
    name = re.sub(r'[^\w.+-]', '_', name)[-100:].lstrip('.') or 'checkpoint'
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(torch.hub.get_dir()) / 'checkpoints' / 'mmlit' / key / name


def check_stamp(path: Path) -> None:
    """Compare a file with the beginning of its hash, if its name ends with one.

    Raises:
        CheckpointError: If they differ.
    """
    stamp = STAMP.search(path.name)
    if not stamp or _is_date(stamp[1]):
        return
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(
            hashlib, 'file_digest') else hashlib.sha256(file.read()).hexdigest()
    if not digest.startswith(stamp[1]):
        raise CheckpointError(
            f'{path.name} is another file than its name says: its SHA-256 begins with '
            f'{digest[:len(stamp[1])]}, not {stamp[1]}')


def _is_date(stamp: str) -> bool:
    """Names such as ``model-20240131.pth`` end with a day, not with a hash."""
    try:
        return 1990 <= datetime.datetime.strptime(stamp, '%Y%m%d').year <= 2100
    except ValueError:
        return False


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != 'https' and not (parts.scheme == 'http' and parts.hostname in LOOPBACK):
        raise CheckpointError(f'{url} is not https: on the way, anyone could put another file in '
                              'its place. Use https, or download it and give its path')


class _SafeRedirects(urllib.request.HTTPRedirectHandler):

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            _check_scheme(newurl)
        except CheckpointError as e:
            raise urllib.error.URLError(f'it sends on to another address, but {e}') from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, path: Path) -> int | None:
    """Write what a URL sends; return the size that the server announced."""
    request = urllib.request.Request(url, headers={'User-Agent': 'mmlit'})
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(request, timeout=TIMEOUT) as answer, open(path, 'wb') as file:
        length = answer.headers.get('Content-Length')
        size = int(length) if length else None
        with tqdm(total=size, unit='B', unit_scale=True, desc=path.name, file=sys.stderr) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return size
