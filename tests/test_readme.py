"""The README's examples run as they stand."""
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmlit  # `mmseg::` of OneDL's forks needs it before the config

from .conftest import GOLDEN_ARCH

README = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
EXAMPLES = re.findall(r'```python\n(.*?)```', README, re.S)


def example(first_word: str) -> str:
    (text, ) = [e for e in EXAMPLES if e.startswith(first_word)]
    return text


def skip_without(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed')


def test_there_are_six():
    assert len(EXAMPLES) == 6


def test_plain_pytorch():
    scope = {}
    exec(example('import torch'), scope)
    assert scope['logits'].shape == (2, 1000)
    assert [tuple(m.shape[1:]) for m in scope['maps']] == [
        (96, 120, 160), (192, 60, 80), (384, 30, 40), (768, 15, 20)]


def test_published_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    state = mmlit.litv2_small().state_dict()
    torch.save(dict(model=state), tmp_path / 'checkpoints/litv2_s.pth')
    scope = {}
    exec(example('import mmlit'), scope)
    assert torch.equal(scope['model'].head.weight, state['head.weight'])


def test_openmixup():
    skip_without('openmixup')
    code = ('import mmlit.openmixup, sys; from mmcv import Config; '
            'from openmixup.models import build_model; '
            'cfg = Config.fromstring(sys.argv[1], ".py"); '
            'print(type(build_model(cfg.model).backbone))')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, example('# openmixup')],
                          capture_output=True, text=True)
    assert "<class 'mmlit.openmixup.backbone.LITv2'>" in done.stdout, done.stderr


def test_layer_wise_learning_rates():
    from mmengine.optim import build_optim_wrapper
    scope = {}
    exec(example('optim_wrapper'), scope)
    model = mmlit.LITv2Classifier(GOLDEN_ARCH)
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1., weight_decay=0.1),
        **scope['optim_wrapper']))
    groups = wrapper.optimizer.param_groups
    assert {g['lr'] for g in groups} == {0.8**n for n in range(7)}
    assert {g.get('weight_decay') for g in groups} == {0., 0.1}


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_openmmlab(package, tmp_path):
    skip_without(package)
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    path = tmp_path / 'config.py'
    path.write_text(example(f'# {package}'))
    cfg = Config.fromfile(path)
    importlib.import_module(f'{package}.models')
    init_default_scope(package)
    models = importlib.import_module(f'{package}.registry').MODELS
    model = models.build(cfg.model)
    assert type(model.backbone).__name__ == 'LITv2' and len(model.backbone.out_indices) == 4
