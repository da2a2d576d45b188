"""Checkpoints of any layout, and of none, from files and from the web."""
import hashlib
import http.server
import logging
import os
import random
import re
import threading
from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from mmlit import LITv2, LITv2Classifier, list_pretrained, litv2_small, load_checkpoint
from mmlit.checkpoints import allow_list, read_checkpoint, written_whole
from mmlit.checkpoints import loading as loading_module
from mmlit.checkpoints.downloading import cached_path
from mmlit.checkpoints.pretrained import PUBLISHED
from mmlit.errors import ArgumentError, CheckpointError

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
@pytest.mark.parametrize('top', [None, 'model', 'state_dict', 'state_dict_ema', 'model_ema'])
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


class Attack:

    def __reduce__(self):
        return os.mkdir, ('attacked', )


@pytest.mark.parametrize('extendable', {allow_list.EXTENDABLE, False})
@pytest.mark.parametrize('zipped', [True, False])
def test_types_that_trainers_leave(official, tmp_path, monkeypatch, extendable, zipped):
    """Those that are allowed are read, and no others, also with torch before 2.6."""
    monkeypatch.setattr(allow_list, 'EXTENDABLE', extendable)
    monkeypatch.chdir(tmp_path)

    def read(content):
        torch.save(dict(content, model=official), 'x.pth', _use_new_zipfile_serialization=zipped)
        return read_checkpoint('x.pth')

    losses = HistoryBuffer([0.5, 0.25], [1, 1])
    checkpoint = read(dict(args=Namespace(lr=0.1), loss=losses, best=np.float64(3), n=np.int64(4)))
    assert checkpoint['args'].lr == 0.1 and checkpoint['loss'].mean() == 0.375
    assert checkpoint['best'] == 3 and checkpoint['n'] == 4
    for key, value in official.items():
        assert torch.equal(checkpoint['model'][key], value)
    for content, name in [(Fraction(1, 3), 'fractions.Fraction'), (Attack(), 'posix.mkdir')]:
        with pytest.raises(CheckpointError, match=name):
            read(dict(args=content))
    assert not Path('attacked').exists()


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


# Downloads.


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the official checkpoint; /short... breaks off half way."""

    def do_GET(self):
        self.server.requests.append(self.path)
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


def files(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob('*') if p.is_file()]


def test_download(server, golden, capfd):
    stamp = hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()[:8]
    url = f'{server.url}/litv2_s-{stamp}.pth?download=true'
    for _ in range(2):
        model = classifier()
        load_checkpoint(model, url, strict=True)
        assert_filled(model, golden)
    assert len(server.requests) == 1
    assert files(server.cache) == [f'litv2_s-{stamp}.pth']
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
    assert files(server.cache) == []


def test_no_connection(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointError, match='Without a connection, put the file at'):
        read_checkpoint(f'{server.url}/x.pth')


# Published weights.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file where the download of LITv2-S with alpha 0.5 would lie; its weights."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    state = LITv2Classifier('small', alpha=0.5).state_dict()
    url, = (entry.url for entry in PUBLISHED if entry.name == 'in1k_alpha0.5')
    cached_path(url).parent.mkdir(parents=True)
    torch.save(dict(model=state), cached_path(url))
    return state


def test_names_bring_their_settings(published):
    model = litv2_small(pretrained='in1k_alpha0.5')
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[name])
    model = litv2_small(num_classes=3, pretrained='in1k_alpha0.5')
    assert model.head.out_features == 3
    with pytest.raises(ArgumentError, match=r'with alpha=0.5, and this one has alpha=0.9'):
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
