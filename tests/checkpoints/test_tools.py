"""The command lines that write checkpoints replace nothing, and keep what inference needs."""
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmlit import LITv2Classifier
from mmlit.checkpoints import describe, read_checkpoint

from ..conftest import DATA, GOLDEN_ARCH

ROOT = Path(__file__).parents[2]
META = dict(dataset_meta=dict(classes=('one', 'two'), palette=[(1, 2, 3), (4, 5, 6)]), epoch=3)


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs a tool in this process; returns its exit status and what it printed."""

    def run(script: str, *args) -> tuple[object, str]:
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        except SystemExit as e:
            code = e.code
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def training(tmp_path):
    """A checkpoint as a training leaves it."""
    model = LITv2Classifier(GOLDEN_ARCH, 10)
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(state_dict=model.state_dict(), optimizer=dict(state={0: torch.zeros(9)}),
                    meta=dict(META, seed=3, config='secret = 1', **describe(model))), path)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publishing_keeps_what_inference_needs(tool, training, tmp_path, suffix):
    code, said = tool('publish_model.py', training, tmp_path / f'out/litv2{suffix}')
    assert code == 0
    path, = (tmp_path / 'out').iterdir()
    assert str(path) in said
    published = read_checkpoint(path)
    assert set(published) == {'state_dict', 'meta'}
    classes = published['meta']['dataset_meta']['classes']
    assert list(classes) == ['one', 'two'] and published['meta']['mmlit']['alpha'] == 0.9
    assert not {'seed', 'config'} & set(published['meta'])


@pytest.mark.parametrize('change, why', [
    (lambda t: t.to(torch.int8), 'int8'), (lambda t: t * float('nan'), 'not finite')])
def test_broken_weights_are_not_passed_on(tool, tmp_path, change, why):
    state = torch.load(DATA / 'official_cls.pth', weights_only=True)['model']
    state['patch_embed.proj.weight'] = change(state['patch_embed.proj.weight'])
    torch.save(dict(model=state), tmp_path / 'x.pth')
    for script, extra in (('publish_model.py', []), ('convert_checkpoint.py', ['--to', 'mmlit'])):
        code, _ = tool(script, tmp_path / 'x.pth', tmp_path / 'out.pth', *extra)
        assert why in code
    assert list(files(tmp_path)) == ['x.pth']
