"""openmixup's configs and checkpoints as ONNX files, through the command lines."""
import re
import subprocess
import sys

import pytest
import torch

from mmlit.deployment import load_part, open_onnx

from .conftest import DEMO, ROOT

pytest.importorskip('onnxruntime', reason='onnxruntime is not installed (mmlit[onnx])')

sys.path.insert(0, str(ROOT / 'tools'))
from prepare_images import open_image, prepare  # noqa: E402


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """An openmixup checkpoint of the demo's model, untrained."""
    from mmlit.openmixup.trainer import build_model, load_config
    torch.manual_seed(0)
    model = build_model(load_config(str(DEMO)))
    path = tmp_path_factory.mktemp('checkpoint') / 'epoch_1.pth'
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), path)
    return path, model.eval()


@torch.no_grad()
def test_part_of_a_config(checkpoint):
    path, model = checkpoint
    part = load_part(str(DEMO), str(path))
    x = torch.randn(2, 3, 64, 64)
    scores = part.module(x)[0].softmax(1)
    torch.testing.assert_close(scores, model(x, mode='inference'), rtol=1e-5, atol=1e-5)
    assert part.preprocessing == dict(version=2, min_size=32, steps=[
        {'load': dict(reader='pillow', color='rgb', upright=False)},
        {'resize': dict(size=[64, 64], backend='pillow', interpolation='bicubic')},
        {'divide': 255},
        {'normalize': dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])}])


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'int8'])
def test_command_line(dtype, checkpoint, digits, tmp_path, command_line, capsys):
    out = tmp_path / 'digits.onnx'
    options = ['--calibrate', digits / 'train', '--calibration-images', 8] * (dtype == 'int8')
    assert command_line('export_onnx.py', DEMO, out, '--checkpoint', checkpoint[0], '--dtype',
                        dtype, *options) is None
    printed = capsys.readouterr().out
    assert f'{dtype}, images -> logits' in printed
    worst = float(re.search(r'(\S+) of the largest output', printed)[1])
    assert worst < dict(float32=1e-4, float16=1e-2, int8=0.5)[dtype]
    assert open_onnx(out)(torch.randn(3, 3, 64, 96))[0].shape == (3, 10)


class TestDemo:
    """tools/demo_onnx.py, in a process that cannot import PyTorch."""

    @pytest.fixture(scope='class')
    def model(self, checkpoint, tmp_path_factory):
        from mmlit.deployment import export_onnx
        out = tmp_path_factory.mktemp('demo') / 'digits.onnx'
        export_onnx(load_part(str(DEMO), str(checkpoint[0])), out)
        return out

    def run(self, *args) -> subprocess.CompletedProcess:
        code = ('import runpy, sys; sys.modules.update(torch=None, mmlit=None, onnx=None); '
                'sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rsplit("/", 1)[0]); '
                'runpy.run_path(sys.argv[0], run_name="__main__")')
        return subprocess.run(
            [sys.executable, '-c', code, ROOT / 'tools/demo_onnx.py', *map(str, args)],
            capture_output=True, text=True)

    @torch.no_grad()
    def test_top_5(self, model, checkpoint, digits, tmp_path):
        image = next((digits / 'val/7').iterdir())
        names = tmp_path / 'names.txt'
        names.write_text('\n'.join(f'digit {k}' for k in range(10)))
        lines = self.run(model, image, '--classes', names).stdout.splitlines()
        part = load_part(str(DEMO), str(checkpoint[0]))
        x = torch.from_numpy(prepare(open_image(image), part.preprocessing))[None]
        top = part.module(x)[0][0].softmax(0).topk(5)
        assert len(lines) == 5
        for line, score, k in zip(lines, *top, strict=True):
            percent, name = re.fullmatch(r' *(\S+)%  (.+)', line).groups()
            assert name == f'digit {k}'
            assert float(percent) == pytest.approx(100 * score.item(), abs=0.01)

    def test_errors(self, model, digits, tmp_path):
        image = next((digits / 'val/7').iterdir())
        text = tmp_path / 'text'
        text.write_text('no image\nno model\n')
        for args, message in [((tmp_path / 'none.onnx', image), 'none.onnx'),
                              ((text, image), 'no model that onnxruntime can run'),
                              ((model, tmp_path / 'none.png'), 'none.png'),
                              ((model, text), 'cannot identify image'),
                              ((model, image, '--classes', text), '2 names, the model 10')]:
            done = self.run(*args)
            assert done.returncode == 1 and message in done.stderr, done
            assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr


@pytest.mark.parametrize('args, message', [
    (('--dtype', 'int8'), 'need each other'),
    (('--dtype', 'int8', '--calibrate', 'tests'), 'no images to calibrate with'),
    (('--part', 'head'), "export 'classifier'"),
    (('--num-classes', '5'), 'says how many there are'),
])
def test_errors(args, message, tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert message in command_line('export_onnx.py', DEMO, tmp_path / 'model.onnx', *args)


def test_export_torch(checkpoint, tmp_path, command_line):
    out = tmp_path / 'digits.pt2'
    assert command_line('export_torch.py', DEMO, out, '--checkpoint', checkpoint[0], '--to',
                        'program') is None
    with torch.no_grad():
        scores = torch.export.load(out).module()(torch.zeros(5, 3, 64, 64))[0]
    assert scores.shape == (5, 10)
