"""What a file may be called, hold and say, and what of the web is kept where."""
import hashlib
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.checkpoints import read_checkpoint, resolve_pretrained, state_dict_of
from mmlit.checkpoints.downloading import _SafeRedirects, cached_path, download
from mmlit.checkpoints.pretrained import PUBLISHED
from mmlit.errors import ArgumentError, CheckpointError

from ..conftest import DATA, GOLDEN_ARCH

OFFICIAL = DATA / 'official_cls.pth'


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'hub'


@pytest.mark.parametrize('urls', [
    ['https://hub/a/resolve/main/model.bin', 'https://hub/b/resolve/main/model.bin'],
    ['https://hub/x.pth?version=1', 'https://hub/x.pth?version=2'],
    ['https://hub/v1.0/litv2_s.pth', 'https://hub/v1.1/litv2_s.pth'],
])
def test_urls_that_end_alike_are_kept_apart(urls):
    first, second = map(cached_path, urls)
    assert first != second and first.name == second.name
    for path, value in ((first, 1.), (second, 2.)):
        path.parent.mkdir(parents=True)
        torch.save(dict(model=dict(x=torch.tensor(value))), path)
    assert [state_dict_of(read_checkpoint(url))['x'].item() for url in urls] == [1., 2.]


@pytest.mark.parametrize('url', [
    'https://host/..%2f..%2f..%2fescaped.pth', 'https://host/a/%2e%2e', 'https://host/..',
    'https://host/', 'https://host', 'https://host/..%5c..%5cx.pth', 'https://host/%2Fetc%2Fx.pth',
    'https://host/' + 'x' * 400 + '.pth', 'https://host/.bashrc', 'https://host/a%00b.pth',
    'https://host/C:x.pth', 'https://host/é?.pth', 'https://host/a/b/../../../../x.pth',
])
def test_no_url_leaves_the_cache(url, hub):
    path = cached_path(url)
    assert path.resolve().is_relative_to((hub / 'checkpoints/mmlit').resolve())
    assert path.parent.parent == hub / 'checkpoints/mmlit'
    assert not path.name.startswith('.') and len(path.name) <= 100
    path.parent.mkdir(parents=True)
    path.write_bytes(b'')  # a name that the file system takes


@pytest.mark.parametrize('url', ['http://example.org/x.pth', 'HTTP://example.org/x.pth',
                                 'http://127.0.0.1.example.org/x.pth'])
def test_addresses_that_are_not_https_are_refused(url):
    with pytest.raises(CheckpointError, match='is not https'):
        read_checkpoint(url)


@pytest.mark.parametrize('target', ['http://example.org/x.pth', 'file:///etc/passwd',
                                    'ftp://example.org/x.pth'])
def test_no_redirect_leaves_https(target):
    request = urllib.request.Request('https://example.org/x.pth')
    with pytest.raises(OSError, match='is not https'):
        _SafeRedirects().redirect_request(request, None, 302, 'Found', {}, target)


@pytest.mark.parametrize('cached', [True, False])
def test_stamp_is_checked_on_every_load(tmp_path, cached):
    digest = hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()
    url = f'https://host/x-{digest[:8]}.pth'
    path = cached_path(url) if cached else tmp_path / f'x-{digest[:8]}.pth'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(OFFICIAL.read_bytes())
    read_checkpoint(url if cached else path)
    torch.save(dict(model=dict(x=torch.ones(3))), path)
    with pytest.raises(CheckpointError, match=f'another file.* not {digest[:8]}.*Download it'):
        read_checkpoint(url if cached else path)


def test_a_day_in_a_name_is_no_stamp(tmp_path):
    path = tmp_path / 'litv2-20240131.pth'
    path.write_bytes(OFFICIAL.read_bytes())
    read_checkpoint(path)
    path.rename(tmp_path / 'litv2-20249931.pth')
    with pytest.raises(CheckpointError, match='another file'):
        read_checkpoint(tmp_path / 'litv2-20249931.pth')


def test_compressed_entries_are_refused_unread(tmp_path):
    path, bomb = tmp_path / 'whole.pth', tmp_path / 'bomb.pth'
    torch.save(dict(model=dict(x=torch.zeros(2**22))), path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    assert bomb.stat().st_size < path.stat().st_size / 100
    with pytest.raises(CheckpointError, match='is compressed, which torch.save does not do'):
        read_checkpoint(bomb)


def test_number_repeated_to_terabytes_is_refused(tmp_path):
    torch.save(dict(model=dict(x=torch.zeros(1).expand(2**40))), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='would take 4096 GiB'):
        state_dict_of(read_checkpoint(tmp_path / 'x.pth'))


@pytest.mark.parametrize('top', ['net', 'network', 'model_state_dict', 'ema_state_dict', 'weights',
                                 'module', 'ema'])
def test_top_keys_of_trainers(tmp_path, top):
    state = torch.load(OFFICIAL, weights_only=True)['model']
    torch.save({top: state, 'epoch': 7, 'args': Namespace(lr=0.1)}, tmp_path / 'x.pth')
    load_checkpoint(LITv2Classifier(GOLDEN_ARCH, 10), tmp_path / 'x.pth', strict=True)


def test_weights_come_before_their_average(tmp_path):
    one, two = dict(x=torch.ones(1)), dict(x=torch.zeros(1))
    for average in ('state_dict_ema', 'ema_state_dict', 'model_ema'):
        torch.save({average: two, 'state_dict': one}, tmp_path / 'x.pth')
        assert state_dict_of(read_checkpoint(tmp_path / 'x.pth'))['x'].item() == 1


def test_import_lets_torch_read_what_mmengine_writes(tmp_path):
    """As the toolkits' own readers do: torch.load as it is."""
    history = HistoryBuffer([0.5], [1])
    torch.save(dict(state_dict=dict(x=torch.ones(1)), message_hub=dict(loss=history),
                    meta=dict(seed=np.int64(3))), tmp_path / 'x.pth')
    script = (f'import torch, mmlit\n'
              f'read = torch.load({str(tmp_path / "x.pth")!r}, weights_only=True)\n'
              'print(read["message_hub"]["loss"].current())')
    assert float(subprocess.check_output([sys.executable, '-W', 'ignore', '-c', script])) == 0.5


class Evil:

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('evil', [
    Evil(os.system, 'true'), Evil(eval, '1'), Evil(getattr, HistoryBuffer, '__init__'),
    Evil(np.load, 'x'), Evil(Namespace.__init__, Namespace()),
])
def test_registered_types_reach_nothing_else(tmp_path, evil):
    torch.save(dict(model=dict(x=torch.ones(1)), extra=evil), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='loading such objects can run code|damaged'):
        read_checkpoint(tmp_path / 'x.pth')


# Names of published weights.


@pytest.mark.parametrize('entry', PUBLISHED, ids=lambda e: f'{e.arch}-{e.name}')
def test_names_are_resolved_in_one_place(entry):
    url, settings = resolve_pretrained(entry.arch, entry.name)
    assert url == entry.url and settings == {'alpha': 0.9, 'init_values': 0., **entry.settings}
    assert resolve_pretrained(entry.arch, url) == (url, None)


@pytest.mark.parametrize('arguments, name, needed', [
    ({}, 'in1k_alpha0.5', 'alpha=0.5'), (dict(alpha=0.5), 'in1k', 'alpha=0.9'),
    ({}, 'in1k_openmixup', 'init_values=1e-06'),
    (dict(init_values=1e-6), 'in1k', 'init_values=0.0'),
])
def test_settings_are_checked_before_the_download(monkeypatch, arguments, name, needed):
    monkeypatch.setattr('mmlit.checkpoints.reading.download', lambda url: pytest.fail('downloads'))
    model = LITv2('small', init_cfg=dict(type='Pretrained', checkpoint=name), **arguments)
    with pytest.raises(ArgumentError, match=f'build it with .*{re.escape(needed)}'):
        model.init_weights()


def test_where_to_put_a_file_by_hand(monkeypatch):
    url = 'https://host.invalid/litv2_s.pth'
    with pytest.raises(CheckpointError, match='put the file at') as e:
        download(url)
    path = Path(re.search(r'put the file at (\S+)\.$', str(e.value))[1])
    path.write_bytes(OFFICIAL.read_bytes())
    assert download(url) == path
