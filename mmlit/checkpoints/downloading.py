"""Files from the web, whole or not at all, in torch hub's cache."""
import hashlib
import http.client
import ipaddress
import re
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import torch
from tqdm import tqdm

from mmlit.errors import CheckpointError

from .pretrained import PUBLISHED
from .stamps import CHUNK, check_stamp, sha256
from .writing import replace_when_whole

TIMEOUT = 60  # seconds without any data
LONGEST_NAME = 100  # characters, far below what file systems take
BY_URL = {entry.url: entry for entry in PUBLISHED}


def download(url: str) -> Path:
    """The file behind a URL, from torch hub's cache or, the first time, from the web.

    It is downloaded beside its place and gets its name once it has the size that the server
    announced and the hash that is known of it (:func:`_check`).

    Args:
        url: https; also http on this machine itself.

    Returns:
        Its path, which :func:`cached_path` tells. A file that is there needs no connection.

    Raises:
        CheckpointError: If the server does not answer, breaks off, sends another file or sends
            elsewhere than to https; if the file is another than its hash says.
    """
    _check_scheme(url)
    target = cached_path(url)
    if target.is_file():
        _check(target, url, target)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.download.', dir=target.parent) as folder:
            partial = Path(folder) / target.name
            size = _fetch(url, partial)
            received = partial.stat().st_size
            if size is not None and received != size:
                raise CheckpointError(f'the download of {url} broke off after {received} of {size} '
                                      'bytes; nothing was kept. Try again.')
            _check(partial, url, url)
            replace_when_whole(partial, target)
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise CheckpointError(
            f'could not download {url}: {e}. Without a connection, put the file at {target}.'
        ) from None
    return target


def cached_path(url: str) -> Path:
    """Where the file behind a URL lies, or would.

    Published weights (:data:`.pretrained.PUBLISHED`) lie in torch hub's own cache under their own
    name, as torch.hub puts them. The last part of another URL says too little: before it stands a
    hash of the whole.
    """
    url = urldefrag(url).url  # what follows a # never reaches a server
    # Taken apart after unquoting, for %2F is a slash too.
    name = re.split(r'[/\\]', unquote(urlsplit(url).path))[-1]
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    if url in BY_URL:
        return cache / name
    return cache / f'{hashlib.sha256(url.encode()).hexdigest()[:20]}_{_plain(name)}'


def _plain(name: str) -> str:
    """A name that every file system takes; its end, with stamp and suffix, stays."""
    return re.sub(r'[^\w.\-]', '_', name, flags=re.ASCII)[-LONGEST_NAME:].rstrip('.')


def _check(path: Path, url: str, source: str | Path) -> None:
    """Compare a file with what is known of the one behind its URL."""
    check_stamp(path, source)
    known = BY_URL[url].sha256 if url in BY_URL else None
    if known and (digest := sha256(path)) != known:
        raise CheckpointError(f'{source} is not the published file: its SHA-256 is {digest}, not '
                              f'{known}. Remove it to download it anew.')


def _check_scheme(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ''
    except ValueError as e:
        raise CheckpointError(f'{url} is no URL: {e}') from None
    if parts.scheme == 'https' or (parts.scheme == 'http' and _is_here(host)):
        return
    advice = {'http': 'http is neither encrypted nor authentic: use https',
              'file': 'give its path'}.get(parts.scheme, 'give a path or an https URL')
    raise CheckpointError(f'{url} is not downloaded: {advice}')


def _is_here(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to what could have been asked for itself."""

    def redirect_request(self, request, fp, code, message, headers, url):
        _check_scheme(url)
        if not _is_here(urlsplit(request.full_url).hostname) and _is_here(urlsplit(url).hostname):
            raise CheckpointError(f'{request.full_url} sends to this machine itself, {url}')
        return super().redirect_request(request, fp, code, message, headers, url)


def _fetch(url: str, path: Path) -> int | None:
    """Write what a URL sends; return the size that the server announced."""
    request = urllib.request.Request(url, headers={'User-Agent': 'mmlit'})
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(request, timeout=TIMEOUT) as answer, open(path, 'wb') as file:
        length = answer.headers.get('Content-Length')
        size = int(length) if length else None
        with tqdm(total=size, unit='B', unit_scale=True, desc=path.name, file=sys.stderr) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return size
