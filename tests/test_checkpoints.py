"""Checkpoints of any layout, and of none, from files and from the web."""
import hashlib
import http.server
import importlib
import logging
import os
import pickle
import random
import re
import sys
import threading
import types
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from mmlit import LITv2, LITv2Classifier, list_pretrained, litv2_small, load_checkpoint
from mmlit.checkpoints import (
    allow_list,
    check_settings,
    downloading,
    read_checkpoint,
    state_dict_of,
    written_whole,
)
from mmlit.checkpoints import loading as loading_module
from mmlit.checkpoints.downloading import download
from mmlit.checkpoints.pretrained import PUBLISHED
from mmlit.errors import CheckpointError, MMLitError

from .conftest import DATA, GOLDEN_ARCH

OFFICIAL = DATA / 'official_cls.pth'


def classifier(**kwargs) -> LITv2Classifier:
    return LITv2Classifier(GOLDEN_ARCH, **{'num_classes': 10, **kwargs})


@pytest.fixture
def official():
    """Weights of the official classifier, in its names."""
    return torch.load(OFFICIAL, weights_only=True)['model']


@pytest.fixture
def said(monkeypatch):
    """What loading reported: (message, level)."""
    lines = []
    monkeypatch.setattr(loading_module, 'print_log',
                        lambda message, logger, level: lines.append((message, level)))
    return lines


@pytest.fixture
def save(tmp_path):
    def save(content, name='checkpoint.pth'):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def assert_filled(model, golden):
    data = golden('official_cls')
    with torch.no_grad():
        logits = model.double().eval()(data['x'].double())
    torch.testing.assert_close(logits, data['logits'].double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.', 'encoder.',
                                    'module.encoder.', 'student.backbone.'])
@pytest.mark.parametrize('top', [None, 'model', 'state_dict', 'state_dict_ema', 'model_ema', 'net',
                                 'model_state_dict', 'ema_state_dict', 'of its own'])
def test_wrappers(official, golden, save, prefix, top):
    outer = re.sub(r'(backbone|encoder)\.$', '', prefix)
    state = {(outer if k.startswith('head.') else prefix) + k: v for k, v in official.items()}
    model = classifier()
    load_checkpoint(model, save({top: state, 'epoch': 3} if top else state), strict=True)
    assert_filled(model, golden)


def test_safetensors(official, golden, tmp_path):
    path = tmp_path / 'x.safetensors'
    save_file(official, path)
    model = classifier()
    load_checkpoint(model, path, strict=True)
    assert_filled(model, golden)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='truncated or damaged'):
        read_checkpoint(path)


def test_averages_beside_the_weights(official, golden, save):
    """mmcv's EMAHook keeps both."""
    averages = {f'ema_backbone_{k.replace(".", "_")}': v + 1 for k, v in official.items()}
    model = classifier()
    load_checkpoint(model, save({'state_dict': {**official, **averages}}), strict=True)
    assert_filled(model, golden)


def test_one_line_says_what_was_loaded(said):
    load_checkpoint(classifier(), OFFICIAL)
    (message, level), = said
    assert re.fullmatch(rf'{OFFICIAL}: loaded \d+ weights, official layout', message)
    assert level == logging.INFO


def test_another_number_of_classes(said, official):
    model = classifier(num_classes=7)
    before = model.head.weight.clone()
    load_checkpoint(model, OFFICIAL)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.backbone.patch_embed.proj.weight, official['patch_embed.proj.weight'])
    (message, level), = said
    assert 'of another size, so left as they were: head.bias, head.weight' in message
    assert level == logging.WARNING
    with pytest.raises(CheckpointError, match='number of classes differs'):
        load_checkpoint(model, OFFICIAL, strict=True)


def test_window_may_change_and_alpha_may_not():
    load_checkpoint(classifier(window_size=(0, 0, 4, 1)), OFFICIAL, strict=True)
    model = classifier(alpha=0.5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='heads are split otherwise between Hi-Fi and Lo-Fi'):
        load_checkpoint(model, OFFICIAL)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_backbone_from_a_classifier(said):
    backbone = LITv2(GOLDEN_ARCH, out_indices=(0, 1, 2, 3))
    load_checkpoint(backbone, OFFICIAL)
    (message, _), = said
    assert 'not in it, so left as they were: norm0.bias' in message
    assert 'no place for head.bias, head.weight' in message


def test_a_backbone_without_a_block_is_refused(official, save):
    del official['layers.2.blocks.1.norm2.bias']
    with pytest.raises(CheckpointError, match=r'lacks backbone.stages.2.blocks.1.norm2.bias'):
        load_checkpoint(classifier(), save(official))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(official, save, value):
    official['layers.0.blocks.0.norm2.bias'][3] = value
    with pytest.raises(CheckpointError, match='stages.0.blocks.0.norm2.bias hold numbers'):
        load_checkpoint(classifier(), save(official))


def test_duplicate_names(official, save):
    both = {**official, **{f'module.{k}': v for k, v in official.items()}}
    with pytest.raises(CheckpointError, match=r"several backbones, under \['', 'module.'\]"):
        load_checkpoint(classifier(), save(both))
    official['stages.0.blocks.0.norm2.bias'] = torch.zeros(16)
    with pytest.raises(CheckpointError, match='stages.0.blocks.0.norm2.bias twice'):
        load_checkpoint(classifier(), save(official))


@pytest.mark.skipif(not allow_list.EXTENDABLE, reason='torch < 2.6 names the first only')
def test_every_refused_type_is_named(official, save):
    content = dict(model=official, args=Fraction(1, 3), when=[threading.Event])
    with pytest.raises(CheckpointError, match='fractions.Fraction, threading.Event'):
        load_checkpoint(classifier(), save(content))


class Pickled:
    """What pickles as a call, or as a name that another library gave."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture(params=[True, False])
def extendable(request, monkeypatch):
    """With torch's own list of allowed types, and as with torch before 2.6."""
    if request.param and not allow_list.EXTENDABLE:
        pytest.skip('this torch has no such list')
    monkeypatch.setattr(allow_list, 'EXTENDABLE', request.param)
    return request.param


@pytest.mark.parametrize('zipped', [True, False])
def test_what_trainers_leave_beside_weights(official, tmp_path, extendable, zipped):
    curve = HistoryBuffer()
    for loss in (3., 2., 1.):
        curve.update(loss)
    numbers = {code: np.array([[0, 1]]).astype(code) for code in allow_list.NUMBERS}
    content = dict(
        state_dict=official, message_hub=dict(log_scalars={'train/loss': curve}), numbers=numbers,
        args=Namespace(lr=0.1, out=Path('a/b'), opt=None), best=np.float32(0.5), at=np.int64(7),
        random=np.random.RandomState(3).get_state(), by_name=defaultdict(list, a=[1]),
        size=torch.Size([2]), dtype=torch.float16, device=torch.device('cpu'))
    path = tmp_path / 'epoch_3.pth'
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    back = read['message_hub']['log_scalars']['train/loss']
    assert back.mean() == 2 and back.current() == back.statistics('min') == 1
    for code, array in read['numbers'].items():
        assert type(array) is np.ndarray and array.dtype == code
        np.testing.assert_array_equal(array, numbers[code])
    assert vars(read['args']) == dict(lr=0.1, out=PurePosixPath('a/b'), opt=None)
    assert (read['best'], read['at'], read['by_name']) == (0.5, 7, dict(a=[1]))
    np.random.RandomState().set_state(read['random'])
    load_checkpoint(classifier(), path, strict=True)


@pytest.mark.skipif(not allow_list.EXTENDABLE, reason='torch < 2.6 reads everything')
def test_torch_itself_reads_what_mmlit_reads(official, save):
    """As the toolkits' own tools do; also after others allowed, for a while, a type of ours."""
    path = save(dict(state_dict=official, curve=HistoryBuffer([1.], [1]), args=Namespace(lr=0.1)))
    with torch.serialization.safe_globals([Namespace, HistoryBuffer]):
        torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=True)['curve'].mean() == 1
    with pytest.raises(pickle.UnpicklingError, match='threading.Event'):
        torch.load(save(dict(when=threading.Event)), weights_only=True)


@pytest.mark.parametrize('name', [k for k, v in allow_list.KNOWN.items() if v is OrderedDict])
def test_settings_of_libraries_that_are_not_here(official, tmp_path, monkeypatch, extendable, name):
    module, _, cls = name.rpartition('.')
    stranger = types.ModuleType(module)
    kind = type(cls, (dict, ), dict(__module__=module, __qualname__=cls))
    setattr(stranger, cls, kind)
    with monkeypatch.context() as m:
        parents = module.split('.')[:-1]
        for i in range(len(parents)):
            parent = '.'.join(parents[:i + 1])
            m.setitem(sys.modules, parent, sys.modules.get(parent, types.ModuleType(parent)))
        m.setitem(sys.modules, module, stranger)
        settings = kind(lr=0.1, model=kind(depth=3))
        settings.__dict__['__immutable__'] = True
        torch.save(dict(model=official, config=settings), tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth')['config'] == dict(lr=0.1, model=dict(depth=3))


ATTACKS = {
    'posix.mkdir': Pickled(os.mkdir, 'attacked'),
    'eval': Pickled(eval, '__import__("os").mkdir("attacked")'),
    'getattr': Pickled(getattr, HistoryBuffer, '__init__'),
    'getattr of another': Pickled(getattr, torch.Tensor, 'numpy'),
    'getattr of a module': Pickled(getattr, np.ndarray, 'tofile'),
    'importlib.import_module': Pickled(importlib.import_module, 'os'),
    'fractions.Fraction': Pickled(Fraction, 1, 3),
    'numpy.load': Pickled(np.load, 'x', None, True),
    'numpy.dtype': Pickled(np.dtype, 'O'),
    'numpy.dtype with fields': Pickled(np.dtype, [('a', 'O')]),
    'an array of objects': np.array([{}], dtype=object),
    'an array of texts': np.array(['a']),
}


@pytest.mark.parametrize('name', ATTACKS)
@pytest.mark.parametrize('zipped', [True, False])
def test_what_could_do_harm_is_refused(official, tmp_path, monkeypatch, extendable, zipped, name):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model=official, x=ATTACKS[name]), 'x.pth',
               _use_new_zipfile_serialization=zipped)
    named = name.split()[0].replace('an', 'numpy.dtype')
    with pytest.raises(CheckpointError, match=rf'pickled objects, (builtins\.)?{named}.*can run'):
        read_checkpoint('x.pth')
    assert not Path('attacked').exists()


class Forged:
    """A dtype of numbers whose state says that it has fields of objects."""

    def __reduce__(self):
        fields = {'a': (np.dtype('f8'), 0)}
        return np.dtype, ('f8', False, True), (3, '<', None, ('a', ), fields, -1, -1, 1)


def test_no_file_can_forge_a_dtype(official, save, extendable):
    dtype = read_checkpoint(save(dict(model=official, dtype=Forged())))['dtype']
    assert dtype is np.dtype('f8') and dtype.fields is None and not dtype.hasobject


def test_web_page(tmp_path):
    path = tmp_path / 'x.pth'
    path.write_text('<!DOCTYPE html><html>404</html>')
    with pytest.raises(CheckpointError, match='not a PyTorch checkpoint but a web page'):
        read_checkpoint(path)


def test_damaged_bytes_never_load(tmp_path):
    """200 corruptions each raise one error, or leave every weight as it was."""
    good = OFFICIAL.read_bytes()
    expected = classifier()
    load_checkpoint(expected, OFFICIAL, strict=True)
    expected = expected.state_dict()
    path = tmp_path / 'x.pth'
    rng = random.Random(0)
    refused = 0
    for i in range(200):
        data = bytearray(good)
        if i % 4 == 3:
            del data[rng.randrange(len(data)):]
        else:
            # Headers and pickles are few among the weights: aim at both ends half of the time.
            end = len(data)
            where = (0, end) if i % 2 else rng.choice([(0, 2000), (end - 20000, end)])
            for _ in range(rng.choice([1, 1, 8])):
                data[rng.randrange(*where)] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        model = classifier()
        try:
            load_checkpoint(model, path, strict=True)
        except CheckpointError as e:
            assert str(path) in str(e)
            refused += 1
            continue
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), (i, name)
    assert refused > 150


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'file.txt'
    with written_whole(path) as partial:
        partial.write_text('first')
        assert not path.exists() and partial.suffix == '.txt'
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:
        partial.write_text('sec')
        raise KeyboardInterrupt
    assert path.read_text() == 'first'
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / ('é' * 120 + '.txt')  # 244 bytes: what is added must not make it too long
    with written_whole(path) as one, written_whole(path) as other:
        one.write_text('one')
        other.write_text('other')
        assert one != other
    assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('linked', [True, False])
def test_nothing_is_overwritten_unasked(tmp_path, monkeypatch, linked):
    if not linked:  # as on a file system without hard links
        def link(*args):
            raise PermissionError
        monkeypatch.setattr(os, 'link', link)
    path = tmp_path / 'file.txt'
    with written_whole(path, overwrite=False) as partial:
        partial.write_text('first')
    with pytest.raises(MMLitError, match='exists, and is not overwritten'), \
            written_whole(path, overwrite=False):
        raise AssertionError('the work began')
    other = tmp_path / 'other.txt'
    with pytest.raises(MMLitError, match='exists'), written_whole(other, False) as partial:
        partial.write_text('second')
        other.write_text('of another process')
    assert (path.read_text(), other.read_text()) == ('first', 'of another process')
    (tmp_path / 'dangling').symlink_to('nothing')
    with pytest.raises(MMLitError, match='exists'), written_whole(tmp_path / 'dangling', False):
        raise AssertionError('the work began')
    with written_whole(path) as partial:
        partial.write_text('third')
    assert path.read_text() == 'third'
    assert {p.name for p in tmp_path.iterdir()} == {'file.txt', 'other.txt', 'dangling'}


# Downloads.


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the official checkpoint; /short... breaks off half way."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path.startswith('/redirect?'):
            self.send_response(302)
            self.send_header('Location', self.path.split('?', 1)[1])
            self.end_headers()
            return
        if self.path.startswith('/missing'):
            self.send_error(404)
            return
        data = OFFICIAL.read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2] if self.path.startswith('/short') else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.requests = []
    server.url = f'http://127.0.0.1:{server.server_port}'
    server.cache = tmp_path / 'hub/checkpoints'
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_download(server, golden, capfd):
    stamp = hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()[:8]
    url = f'{server.url}/litv2_s-{stamp}.pth?download=true'
    for _ in range(2):
        model = classifier()
        load_checkpoint(model, url, strict=True)
        assert_filled(model, golden)
    assert len(server.requests) == 1
    (path, ) = server.cache.iterdir()
    assert path.name.endswith(f'_litv2_s-{stamp}.pth')
    assert '100%' in capfd.readouterr().err  # the progress bar
    server.shutdown()
    load_checkpoint(classifier(), url)  # offline


@pytest.mark.parametrize('name, message', [
    ('short.pth', r'broke off after \d+ of \d+ bytes; nothing was kept'),
    ('missing.pth', '404'),
    ('other-0123abcd.pth', 'its SHA-256 begins with'),
])
def test_failed_download(server, name, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(f'{server.url}/{name}')
    assert list(server.cache.iterdir()) == []


def test_no_connection(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match='Without a connection, put the file at'):
        read_checkpoint(f'{server.url}/x.pth')


def test_urls_that_end_alike_are_different_files(server):
    urls = [f'{server.url}/{path}/model.safetensors' for path in ('a', 'b', 'a?x=1', 'a?x=2')]
    urls += [f'{server.url}/{path}' for path in ('c?f=/model.safetensors', 'd%2Fmodel.safetensors')]
    paths = {download(url) for url in urls}
    assert len(server.requests) == len(paths) == len(urls)
    assert {download(url) for url in urls} == paths and len(server.requests) == len(urls)
    assert download(f'{urls[0]}#part') == download(urls[0])


@pytest.mark.parametrize('path', [
    '..%2f..%2f..%2fescaped.pth', '%2e%2e', '..', '.', '', '%2Fetc%2Fpasswd', 'a%5c..%5cb.pth',
    'x%00.pth', f'{"y" * 400}.pth', 'CON', 'a%3Ab%2A.pth', '%E2%80%AE.pth', '...'])
def test_no_url_writes_outside_the_cache(server, tmp_path, path):
    target = download(f'{server.url}/f/{path}')
    assert target.parent == server.cache and target.is_file()
    assert {p for p in tmp_path.rglob('*') if p.is_file()} == {target}
    assert re.fullmatch(r'[\w.-]{20,128}', target.name) and not target.name.endswith('.')
    assert target.suffix == ('.pth' if path.endswith('.pth') else '')


def test_a_stamp_is_checked_on_every_load(server, save, tmp_path):
    stamp = hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()[:8]
    path = tmp_path / f'x-{stamp}.pth'
    path.write_bytes(OFFICIAL.read_bytes())
    read_checkpoint(path)
    other = save(dict(model={}), 'x-0123abcd.pth')
    with pytest.raises(CheckpointError, match='another file than its name says'):
        read_checkpoint(other)
    cached = download(f'{server.url}/x-{stamp}.pth')
    cached.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match='another file than its name says'):
        read_checkpoint(f'{server.url}/x-{stamp}.pth')
    # A date or a number of steps is no stamp.
    read_checkpoint(save(dict(model={}), 'x-20240131.pth'))


def test_hashes_of_published_weights_are_checked(server, monkeypatch):
    url = f'{server.url}/litv2_s.pth'
    entry = PUBLISHED[0]._replace(url=url, sha256=hashlib.sha256(OFFICIAL.read_bytes()).hexdigest())
    monkeypatch.setitem(downloading.BY_URL, url, entry)
    path = download(url)
    assert path == server.cache / 'litv2_s.pth'
    path.write_bytes(b'other')
    with pytest.raises(CheckpointError, match='is not the published file'):
        download(url)
    path.unlink()
    monkeypatch.setitem(downloading.BY_URL, url, entry._replace(sha256='0' * 64))
    with pytest.raises(CheckpointError, match='is not the published file'):
        download(url)
    assert list(server.cache.iterdir()) == []


@pytest.mark.parametrize('url, message', [
    ('http://example.com/x.pth', 'use https'), ('HTTP://example.com/x.pth', 'use https'),
    ('http://127.0.0.1.example.com/x.pth', 'use https'), ('file:///etc/passwd', 'give its path'),
    ('ftp://example.com/x.pth', 'an https URL'), ('s3://bucket/x.pth', 'an https URL'),
    ('https://[x/y.pth', 'is no URL')])
def test_only_https_is_downloaded(tmp_path, monkeypatch, url, message):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('target', ['http://example.com/x.pth', 'file:///etc/passwd',
                                    'ftp://example.com/x.pth'])
def test_redirects_lead_nowhere_else(server, target):
    with pytest.raises(CheckpointError, match='is not downloaded|is not allowed'):
        read_checkpoint(f'{server.url}/redirect?{target}')
    assert list(server.cache.iterdir()) == []


def rezipped(source: Path, target: Path, method=zipfile.ZIP_STORED, also=()) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        for name, content in also:
            new.writestr(name, content)
    return target


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_archives_that_torch_would_not_write(tmp_path, save):
    """A bomb of 2 MB that would take 2 GB is refused before it is read."""
    plain = save(dict(model=dict(x=torch.zeros(1000))))
    assert read_checkpoint(rezipped(plain, tmp_path / 'again.pth'))['model']['x'].sum() == 0
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(CheckpointError, match='is compressed, which torch.save never does'):
            read_checkpoint(rezipped(plain, tmp_path / 'bomb.pth', method))
    name = 'checkpoint/data/0'
    with pytest.raises(CheckpointError, match=f'{name} is in it twice'):
        read_checkpoint(rezipped(plain, tmp_path / 'twice.pth', also=[(name, b'x')]))
    # Two names of one part of the file, in the directory at its end.
    more = [('checkpoint/y', b'1' * 99), ('checkpoint/z', b'1' * 99)]
    data = bytearray(rezipped(plain, tmp_path / 'o.pth', also=more).read_bytes())
    first, second = (data.rindex(n) - 46 for n in (b'checkpoint/y', b'checkpoint/z'))
    data[second + 42:second + 46] = data[first + 42:first + 46]
    (tmp_path / 'o.pth').write_bytes(data)
    with pytest.raises(CheckpointError, match='overlaps another entry'):
        read_checkpoint(tmp_path / 'o.pth')


def test_which_weights_are_taken(official):
    a, b = ({k: v + i for k, v in official.items()} for i in range(2))
    for content in (
            dict(state_dict=a, ema_state_dict=b), dict(state_dict_ema=b, state_dict=a),
            dict(model='litv2_s', model_state_dict=a, epoch=3), dict(model=dict(state_dict=a)),
            dict(state_dict={}, net=a), dict(ema_state_dict={**a, 'steps': torch.tensor(3)}),
            dict(generator=a, optimizer=dict(state={0: b}))):
        taken = state_dict_of(content)
        assert set(taken) == set(official)
        assert all(torch.equal(taken[k], v) for k, v in official.items())
    with pytest.raises(CheckpointError, match=r"several of its keys hold weights, \['q', 'k'\]"):
        state_dict_of(dict(q=a, k=b))
    with pytest.raises(CheckpointError, match='holds no weights'):
        state_dict_of(dict(optimizer=dict(state={}), epoch=3))


# Published weights.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file where the download of LITv2-S with alpha 0.5 would lie; its weights."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    state = LITv2Classifier('small', alpha=0.5).state_dict()
    (tmp_path / 'checkpoints').mkdir()
    torch.save(dict(model=state), tmp_path / 'checkpoints/alpha_0.5.pth')
    return state


def test_names_bring_their_settings(published):
    model = litv2_small(pretrained='in1k_alpha0.5')
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[name])
    model = litv2_small(num_classes=3, pretrained='in1k_alpha0.5')
    assert model.head.out_features == 3
    with pytest.raises(CheckpointError, match='heads are split otherwise'):
        litv2_small(pretrained='in1k_alpha0.5', alpha=0.9)


def test_names_in_configs(published):
    init_cfg = dict(type='Pretrained', checkpoint='in1k_alpha0.5')
    backbone = LITv2('s', alpha=0.5, out_indices=(0, 1, 2, 3), init_cfg=init_cfg)
    backbone.init_weights()
    name = 'stages.2.blocks.0.attn.h_qkv.weight'
    assert torch.equal(backbone.state_dict()[name], published[f'backbone.{name}'])
    with pytest.raises(CheckpointError, match=r"no weights 'in1k_384' for LITv2 small: there are"):
        LITv2('small', init_cfg=dict(init_cfg, checkpoint='in1k_384')).init_weights()
    with pytest.raises(CheckpointError, match='of an arch of its own: none are published'):
        LITv2(GOLDEN_ARCH, init_cfg=dict(init_cfg, checkpoint='in1k')).init_weights()


@pytest.fixture
def no_downloads(monkeypatch):
    def fetch(url, path):
        raise AssertionError(f'{url} was asked for')
    monkeypatch.setattr(downloading, '_fetch', fetch)


@pytest.mark.parametrize('name, arguments, message', [
    ('in1k_alpha0.5', {}, 'split otherwise.*alpha=0.5; nothing was downloaded'),
    ('in1k', dict(alpha=0.5), 'split otherwise.*alpha=0.9'),
    ('in1k_openmixup', {}, 'lack layer scale.*init_values=1e-06'),
    ('in1k', dict(init_values=1e-6), 'have layer scale.*init_values=0.0'),
    ('in1k_openmixup', dict(alpha=0.), 'split otherwise.*lack.*alpha=0.9, init_values=1e-06'),
    ('in1k_384', {}, 'there are'),
])
def test_settings_are_checked_before_a_download(no_downloads, name, arguments, message):
    backbone = LITv2('small', init_cfg=dict(type='Pretrained', checkpoint=name), **arguments)
    with pytest.raises(CheckpointError, match=message):
        backbone.init_weights()
    if 'alpha' in arguments:
        with pytest.raises(CheckpointError, match=message.split('.*lack')[0]):
            litv2_small(pretrained=name, **arguments)


@pytest.mark.parametrize('entry', [e for e in PUBLISHED if e.arch == 'small'])
def test_settings_of_each_name_fit_it(entry):
    check_settings(LITv2('small', **entry.settings), entry)


def test_list_of_names(capsys):
    list_pretrained()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(PUBLISHED) == 13
    assert lines[-1].split()[:4] == ['litv2_base', 'in1k_384', '384', '84.70']
    assert len({entry.url for entry in PUBLISHED}) == 12


def test_torch_hub():
    root = str(Path(__file__).parents[1])
    model = torch.hub.load(root, 'litv2_small', source='local', num_classes=7, window_size=4)
    assert model.head.out_features == 7
