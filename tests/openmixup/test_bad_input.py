"""Every error that a user can mend: one paragraph, exit status 1, nothing written."""
import os
import pickle
import shutil

import pytest
import torch

from mmlit.checkpoints import state_dict_of

from ..conftest import DATA, GOLDEN_ARCH
from .conftest import DEMO


@pytest.fixture
def fails(command_line, data_options, tmp_path):
    """Trains one epoch of the demo with further options; returns its error message."""

    def run(*options, args=(), script='train.py', config=DEMO, work_dir=tmp_path / 'work'):
        options = ['runner.max_epochs=1', *data_options, *options]
        if script == 'train.py':
            args = [*args, '--work-dir', work_dir]
        message = command_line(script, config, *args, '--cfg-options', *options)
        assert isinstance(message, str) and message.startswith('error: '), message
        assert '\n' not in message and 'Traceback' not in message and len(message) < 900
        return message

    return run


@pytest.mark.parametrize('key', ['list_file', 'root'])
def test_missing_data(fails, tmp_path, key):
    (tmp_path / 'empty').mkdir()  # without folders to take in place of a list
    message = fails(f'data.train.data_source.root={tmp_path}/empty',
                    f'data.train.data_source.{key}=nowhere/digits')
    assert f'data.train.data_source.{key}' in message
    assert os.path.abspath('nowhere/digits') in message
    assert not (tmp_path / 'work').exists()


def test_missing_imagenet_says_how_to_get_it(fails):
    message = fails('data.train.data_source.type=ImageNet',
                    'data.train.data_source.root=data/ImageNet/train')
    assert 'image-net.org' in message


@pytest.mark.parametrize('lines, problem', [
    ('', 'is empty'), ('0/0.png 0\n1/1.png one\n', 'line 2: expected "PATH LABEL"')])
def test_broken_list(fails, tmp_path, lines, problem):
    path = tmp_path / 'list.txt'
    path.write_text(lines)
    message = fails(f'data.train.data_source.list_file={path}')
    assert problem in message and str(path) in message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content', [b'no image', 'truncated'])
def test_unreadable_image(fails, digits, tmp_path, content, workers):
    root = tmp_path / 'train'
    shutil.copytree(digits / 'train', root)
    name = (digits / 'meta/train_128.txt').read_text().split()[0]
    if content == 'truncated':
        content = (root / name).read_bytes()[:-30]
    (root / name).write_bytes(content)
    message = fails(f'data.train.data_source.root={root}', f'data.workers_per_gpu={workers}')
    assert f'cannot read the image {root / name}' in message


def test_config_of_the_other_generation(fails, tmp_path):
    config = tmp_path / 'retinanet.py'
    config.write_text("_base_ = ['mmdet::_base_/default_runtime.py']\nmodel = dict()\n")
    message = fails(config=config)
    assert 'mmengine configs' in message and 'another process' in message


@pytest.mark.parametrize('text, problem', [
    ('a = 1', 'is not a config'), ('a = (', 'is not Python'), (None, 'cannot read the config')])
def test_no_config(fails, tmp_path, text, problem):
    config = tmp_path / 'config.py'
    if text is not None:
        config.write_text(text)
    assert problem in fails(config=config)


class Evil:
    """Pickled, it makes a file when unpickled by a careless loader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


def make_checkpoint(kind: str, path, marker) -> None:
    good = torch.load(DATA / 'official_cls.pth', weights_only=True)
    if kind == 'truncated':
        path.write_bytes((DATA / 'official_cls.pth').read_bytes()[:100_000])
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('<html>404: not found</html>')
    elif kind == 'list':
        torch.save([torch.zeros(1)], path)
    elif kind == 'no weights':
        torch.save(dict(epoch=3), path)
    elif kind == 'another library':
        torch.save(dict(state_dict={'conv1.weight': torch.zeros(1)}), path)
    elif kind == 'code':
        torch.save(dict(good, extra=Evil(marker)), path)
    elif kind == 'code, old format':
        torch.save(dict(good, extra=Evil(marker)), path, _use_new_zipfile_serialization=False)
    elif kind == 'code, plain pickle':
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    elif kind == 'code, new pickle':
        path.write_bytes(pickle.dumps(Evil(marker)))
    elif kind == 'classes':
        head = {k: v[:7] for k, v in good['model'].items() if k.startswith('head.')}
        torch.save(dict(model={**good['model'], **head}), path)
    elif kind in ('arch', 'alpha', 'layer scale'):
        from mmlit import LITv2Classifier
        arch = dict(GOLDEN_ARCH, depths=[1, 1, 3, 1]) if kind == 'arch' else GOLDEN_ARCH
        model = LITv2Classifier(arch, 10, alpha=0.3 if kind == 'alpha' else 0.9,
                                init_values=1e-6 if kind == 'layer scale' else 0)
        torch.save(dict(state_dict=model.state_dict()), path)


CHECKPOINTS = {
    'missing': 'does not exist',
    'truncated': 'truncated or damaged',
    'empty': 'truncated or damaged',
    'text': 'not a PyTorch checkpoint',
    'list': 'holds a list',
    'no weights': 'holds no weights',
    'another library': 'none of the layouts',
    'code': 'mkdir, and loading such objects can run code',
    'code, old format': 'mkdir, and loading such objects can run code',
    'code, plain pickle': 'mkdir, and loading such objects can run code',
    'code, new pickle': 'not a PyTorch checkpoint',
    'classes': 'number of classes differs',
    'arch': 'another arch',
    'alpha': 'heads are split otherwise',
    'layer scale': 'Layer scale differs',
}
GOLDEN_OPTIONS = [f'model.backbone.arch.{k}={str(v).replace(" ", "")}'
                  for k, v in GOLDEN_ARCH.items()] + ['model.head.in_channels=128']


@pytest.mark.parametrize('kind', CHECKPOINTS)
@pytest.mark.parametrize('use', ['--load-from', '--resume', 'test.py', 'init_cfg'])
def test_bad_checkpoint(fails, tmp_path, kind, use):
    path, marker = tmp_path / 'checkpoint.pth', tmp_path / 'marker'
    make_checkpoint(kind, path, marker)
    if use == '--resume' and kind in ('another library', 'classes', 'arch', 'alpha', 'layer scale'):
        checkpoint = torch.load(path)  # so that only the weights are wrong
        torch.save(dict(state_dict=state_dict_of(checkpoint), meta=dict(epoch=1, iter=8),
                        optimizer=dict(state={}, param_groups=[])), path)
    if kind == 'classes' and use == '--load-from':
        pytest.skip('the head is new then: tests/test_checkpoints.py')
    if use == 'test.py':
        message = fails(*GOLDEN_OPTIONS, args=[path], script='test.py')
    elif use == 'init_cfg':
        if kind == 'classes':
            pytest.skip('a backbone has no classes')
        message = fails(*GOLDEN_OPTIONS, 'model.backbone.init_cfg.type=Pretrained',
                        f'model.backbone.init_cfg.checkpoint={path}')
    else:
        message = fails(*GOLDEN_OPTIONS, args=[use, path])
    assert CHECKPOINTS[kind] in message and str(path) in message
    assert not marker.exists()
    assert not (tmp_path / 'work').exists()


def test_resume_from_weights_alone(fails):
    message = fails(*GOLDEN_OPTIONS, args=['--resume', DATA / 'official_cls.pth'])
    assert 'holds weights but no state of a training' in message and 'use --load-from' in message


@pytest.mark.parametrize('option, problem', [
    ('model.backbone.arch.num_heads=[1,2,3,8]', 'num_heads=3 does not divide embed_dims=128'),
    ('model.backbone.alpha=1.5', 'alpha=1.5'),
    ('model.backbone.window_size=[0,0,0,1]', 'window_size[2]=0: HiLo needs an integer >= 1'),
    ('model.backbone.window_size=[0,0,2,-1]', 'window_size[3]=-1'),
    ('model.backbone.in_channels=1', 'images have 3 channels, but LITv2 was built with'),
    ('model.backbone.nonsense=1', 'nonsense'),
    ('model.head.num_classes=7', 'label 9, but model.head.num_classes is 7'),
    ('data.train.pipeline.0.size=(16,16) data.train.pipeline.1.size=16', 'at least 32'),
    ('runner.type=IterBasedRunner', 'expected type EpochBasedRunner'),
    ('sampler=GroupSampler', "sampler='GroupSampler'"),
])
def test_bad_setting(fails, option, problem):
    assert problem in fails(*option.split())
