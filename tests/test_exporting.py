"""Checkpoints go out in the layouts they come in, and compute the same."""
import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmlit import LITv2Classifier, load_checkpoint
from mmlit.checkpoints import convert, fill_model, publish, read_checkpoint, state_dict_of
from mmlit.checkpoints.exporting import TARGETS, to_mmlit, to_official, to_openmixup
from mmlit.errors import CheckpointError, MMLitError

from .conftest import DATA, GOLDEN_ARCH

ROOT = Path(__file__).parents[1]
FILES = dict(official='official_cls.pth', openmixup='openmixup_lit.pth',
             detection='official_det.pth', segmentation='official_seg.pth')


@pytest.fixture
def run(monkeypatch):
    """Runs a script under tools/ in this process; returns what it would exit with, or None."""

    def run(script: str, *args):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        try:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        except SystemExit as e:
            return e.code

    return run


def weights(name: str) -> dict:
    return state_dict_of(read_checkpoint(DATA / FILES[name]))


def logits(state: dict, x: torch.Tensor) -> torch.Tensor:
    init_values = 1e-6 if any('gamma' in k for k in state) else 0
    model = LITv2Classifier(GOLDEN_ARCH, 10, init_values=init_values).double().eval()
    fill_model(model, {k: v.double() for k, v in state.items()}, 'test', strict=True)
    with torch.no_grad():
        return model(x.double())


@pytest.mark.parametrize('name', ['official', 'detection', 'segmentation'])
def test_official_round_trip(name):
    """Bit by bit, names included."""
    before = weights(name)
    after = state_dict_of(to_official(*convert(before)[1:]))
    assert {k.removeprefix('backbone.') for k in after} == {
        k.removeprefix('backbone.') for k in before}
    for key, value in before.items():
        assert torch.equal(after[key] if key in after else after[f'backbone.{key}'], value)


def test_openmixup_round_trip():
    before = weights('openmixup')
    after = state_dict_of(to_openmixup(*convert(before)[1:]))
    assert set(after) == set(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key  # a bias of zero shifts no running mean


@pytest.mark.parametrize('source', ['official', 'openmixup'])
@pytest.mark.parametrize('target', ['official', 'openmixup', 'mmlit', 'timm'])
def test_every_direction_computes_the_same(golden, source, target):
    x = golden('official_cls')['x']
    before = weights(source)
    double = {k: v.double() if v.is_floating_point() else v for k, v in before.items()}
    converted = state_dict_of(TARGETS[target](*convert(double)[1:]))
    torch.testing.assert_close(logits(converted, x), logits(before, x), rtol=1e-9, atol=1e-9)
    if target == 'official':
        assert not any('gamma' in k for k in converted)
    if target == 'openmixup':
        assert not any(k.endswith('dconv.bias') for k in converted)


def test_rounding_of_what_is_folded(golden):
    x = golden('official_cls')['x']
    for source, target in (('official', 'openmixup'), ('openmixup', 'official')):
        before = weights(source)
        converted = state_dict_of(TARGETS[target](*convert(before)[1:]))
        torch.testing.assert_close(logits(converted, x), logits(before, x), rtol=1e-6, atol=1e-6)


def test_dense_targets_have_no_classifier():
    state = state_dict_of(TARGETS['mmdet'](*convert(weights('official'))[1:]))
    assert all(k.startswith('backbone.') for k in state)
    assert 'backbone.norm3.weight' in state


def test_detectors_keep_their_heads():
    _, backbone, _ = convert(weights('detection'))
    heads = {'bbox_head.retina_cls.weight': torch.ones(2)}
    whole = to_official(backbone, heads)
    assert list(whole) == ['state_dict'] and 'bbox_head.retina_cls.weight' in whole['state_dict']
    assert set(to_mmlit(*convert(whole['state_dict'])[1:])['state_dict']) == {
        *(f'backbone.{k}' for k in backbone), *heads}


def test_a_bias_without_statistics_is_refused():
    _, backbone, rest = convert(weights('official'))
    backbone = {k: v for k, v in backbone.items() if not k.endswith('running_mean')}
    with pytest.raises(CheckpointError, match='cannot be folded'):
        to_openmixup(backbone, rest)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_command_line(tmp_path, golden, suffix):
    target = tmp_path / f'out/litv2{suffix}'
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/convert_checkpoint.py', DATA / FILES['openmixup'],
         target, '--to', 'official'], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 'from the openmixup layout to official' in run.stdout
    model = LITv2Classifier(GOLDEN_ARCH, 10).eval()
    load_checkpoint(model, target, strict=True)
    with torch.no_grad():
        out = model.double()(golden('openmixup_lit')['x'].double())
    torch.testing.assert_close(out, golden('openmixup_lit')['logits'].double(), rtol=1e-5,
                               atol=1e-5)
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    run = subprocess.run([sys.executable, '-W', 'ignore', 'tools/convert_checkpoint.py', target,
                          tmp_path / 'x.txt', '--to', 'mmlit'], cwd=ROOT, capture_output=True,
                         text=True)
    assert run.returncode == 1 and 'ends with .pth or .safetensors' in run.stderr


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publishing(tmp_path, run, suffix):
    state = weights('official')
    trained = tmp_path / 'epoch_3.pth'
    optimizer = dict(state={0: torch.zeros(1000)})
    torch.save(dict(state_dict=state, optimizer=optimizer, meta={}), trained)
    for _ in range(2):  # the same file again
        assert run('publish_model.py', trained, tmp_path / f'out/litv2{suffix}') is None
    (path, ) = (tmp_path / 'out').iterdir()
    assert path.name == f'litv2-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{suffix}'
    published = read_checkpoint(path)
    assert 'optimizer' not in published
    published = state_dict_of(published)
    assert set(published) == set(state)
    assert all(torch.equal(published[k], v) for k, v in state.items())


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a training; its bytes must stay."""
    path = tmp_path / 'epoch_3.pth'
    state = weights('official')
    copies = {f'ema_{k.replace(".", "_")}': v + 1 for k, v in state.items()}
    meta = dict(dataset_meta=dict(classes=('cat', 'dog'), palette=np.array([[1, 2, 3], [4, 5, 6]])),
                CLASSES=('cat', 'dog'), mmlit=dict(alpha=0.9), cfg='work_dir = "/home/me"',
                seed=3, hostname='mine', epoch=3)
    torch.save(dict(state_dict={**state, **copies}, meta=meta,
                    optimizer=dict(state={0: torch.zeros(1000)}),
                    message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.], [1]))),
                    param_schedulers=[{}]), path)
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_what_inference_needs_is_published(tmp_path, trained, suffix):
    path, count = publish(trained, tmp_path / f'litv2{suffix}')
    published, state = read_checkpoint(path), weights('official')
    assert set(published) == {'state_dict', 'meta'} and count == len(state)
    assert set(published['meta']) == {'dataset_meta', 'CLASSES', 'mmlit'}
    assert published['meta']['mmlit'] == dict(alpha=0.9)
    dataset = published['meta']['dataset_meta']
    assert list(dataset['classes']) == ['cat', 'dog']
    assert np.array_equal(dataset['palette'], [[1, 2, 3], [4, 5, 6]])
    assert set(published['state_dict']) == set(state)
    assert b'/home/me' not in path.read_bytes()
    load_checkpoint(LITv2Classifier(GOLDEN_ARCH, 10), path, strict=True)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_published_again_it_is_the_same_file(tmp_path, trained, suffix):
    paths = {publish(trained, tmp_path / f'litv2{suffix}')[0] for _ in range(2)}
    assert len(paths) == 1
    (path, ) = paths
    content = path.read_bytes()
    path.write_bytes(b'of somebody else')
    with pytest.raises(MMLitError, match='exists, and is not overwritten'):
        publish(trained, tmp_path / f'litv2{suffix}')
    assert path.read_bytes() == b'of somebody else'
    publish(trained, tmp_path / f'litv2{suffix}', overwrite=True)
    assert path.read_bytes() == content


def test_weights_that_share_memory_are_published(tmp_path):
    """As of models with one module under two names; .safetensors refuses such tensors."""
    weight = torch.arange(6.).reshape(2, 3)
    trained = tmp_path / 'tied.pth'
    torch.save(dict(state_dict={'a.weight': weight, 'b.weight': weight, 'c.weight': weight.t()}),
               trained)
    path, _ = publish(trained, tmp_path / 'out.safetensors')
    state = state_dict_of(read_checkpoint(path))
    assert torch.equal(state['a.weight'], weight) and torch.equal(state['b.weight'], weight)
    assert torch.equal(state['c.weight'], weight.t())


def test_publishing_touches_neither_source_nor_target(tmp_path, trained, run):
    before = trained.read_bytes()
    assert run('publish_model.py', trained, trained) is None
    assert trained.read_bytes() == before
    target = tmp_path / 'mine.pth'
    target.write_bytes(b'mine')
    assert run('publish_model.py', trained, target) is None
    assert target.read_bytes() == b'mine'
    assert len(list(tmp_path.iterdir())) == 4


def test_converting_overwrites_nothing_unasked(tmp_path, trained, run):
    before, target = trained.read_bytes(), tmp_path / 'out.pth'
    target.write_bytes(b'mine')
    assert 'exists, and is not overwritten' in run('convert_checkpoint.py', trained, target, '--to',
                                                   'mmlit')
    assert target.read_bytes() == b'mine'
    assert run('convert_checkpoint.py', trained, target, '--to', 'mmlit', '--overwrite') is None
    assert set(read_checkpoint(target)['meta']) == {'dataset_meta', 'CLASSES', 'mmlit'}
    link, hard = tmp_path / 'link.pth', tmp_path / 'hard.pth'
    link.symlink_to(trained)
    hard.hardlink_to(trained)
    for path in (trained, link, hard):
        said = run('convert_checkpoint.py', trained, path, '--to', 'mmlit', '--overwrite')
        assert 'is the source itself' in said
    assert trained.read_bytes() == before and link.is_symlink()


def test_folded_weights_are_not_said_to_be_otherwise(tmp_path, trained, run):
    assert run('convert_checkpoint.py', trained, tmp_path / 'x.safetensors', '--to',
               'official') is None
    assert set(read_checkpoint(tmp_path / 'x.safetensors')['meta']) == {'dataset_meta', 'CLASSES'}
