"""openmixup's configs and checkpoints as ONNX files, through the command lines."""
import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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


def export(out: Path, *args) -> str:
    """By the command line; returns what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, 'argv', ['export_onnx.py', str(DEMO), str(out), *map(str, args)])
        runpy.run_path(str(ROOT / 'tools/export_onnx.py'), run_name='__main__')
    return printed.getvalue()


@pytest.fixture(scope='module')
def exported(checkpoint, tmp_path_factory):
    """The file for all that asks for one: an export takes half a minute."""
    out = tmp_path_factory.mktemp('exported') / 'digits.onnx'
    return out, export(out, '--checkpoint', checkpoint[0])


def check_export(dtype: str, out: Path, printed: str, worst: float) -> None:
    assert f'{dtype}, images -> logits' in printed
    assert float(re.search(r'(\S+) of the largest output', printed)[1]) < worst
    assert open_onnx(out)(torch.randn(3, 3, 64, 96))[0].shape == (3, 10)


@pytest.mark.slow
def test_command_line(exported):
    check_export('float32', *exported, worst=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('dtype, worst', [('float16', 1e-2), ('int8', 0.5)])
def test_command_line_of_smaller_types(dtype, worst, checkpoint, digits, tmp_path):
    options = ['--calibrate', digits / 'train', '--calibration-images', 8] * (dtype == 'int8')
    printed = export(tmp_path / 'digits.onnx', '--checkpoint', checkpoint[0], '--dtype', dtype,
                     *options)
    check_export(dtype, tmp_path / 'digits.onnx', printed, worst)


@pytest.mark.slow
class TestDemo:
    """tools/demo_onnx.py, in a process that cannot import PyTorch."""

    @pytest.fixture
    def model(self, exported):
        return exported[0]

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
        gap = tmp_path / 'gap'
        gap.write_text('a\n\nb\n')
        for args, message in [((tmp_path / 'none.onnx', image), 'none.onnx'),
                              ((text, image), 'no model that onnxruntime can run'),
                              ((model, tmp_path / 'none.png'), 'none.png'),
                              ((model, text), 'cannot identify image'),
                              ((model, tmp_path), 'Is a directory'),
                              ((tmp_path, image), 'is not a file'),
                              ((model, image, '--classes', text), '2 names, the model 10'),
                              ((model, image, '--classes', image), 'is not text in UTF-8'),
                              ((model, image, '--classes', gap), 'line 2 is empty')]:
            done = self.run(*args)
            assert done.returncode == 1 and message in done.stderr, done
            assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr


    def test_names_as_editors_write_them(self, model, digits, tmp_path):
        names = tmp_path / 'names.txt'
        names.write_bytes('\ufeffzéro\r\n'.encode() + b''.join(b'n%d\r\n' % k for k in range(1, 10))
                          + b'\r\n\r\n')
        done = self.run(model, next((digits / 'val/7').iterdir()), '--classes', names)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 5
        assert all(re.fullmatch(r' *\S+%  (zéro|n\d)', line) for line in done.stdout.splitlines())

    def test_odd_images(self, model, tmp_path):
        """One paragraph for what cannot be read, a remark on what is not as it seems."""
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        whole = Image.fromarray(noise)
        frames = [Image.new('RGB', (9, 9), colour) for colour in ('red', 'blue')]
        whole.save(tmp_path / 'whole.jpg')
        for cut in (200, 3000):
            (tmp_path / f'cut{cut}.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:cut])
        whole.save(tmp_path / 'whole.png')
        broken = bytearray((tmp_path / 'whole.png').read_bytes())
        broken[60:80] = bytes(20)
        (tmp_path / 'broken.png').write_bytes(broken)
        (tmp_path / 'empty.png').write_bytes(b'')
        Image.new('1', (12_000, 12_000)).save(tmp_path / 'bomb.png')
        Image.new('1', (15_000, 15_000)).save(tmp_path / 'larger_bomb.png')
        for name in ('cut200.jpg', 'cut3000.jpg', 'broken.png', 'empty.png', 'bomb.png',
                     'larger_bomb.png'):
            done = self.run(model, tmp_path / name)
            assert done.returncode == 1 and done.stdout == '', name
            assert re.fullmatch(f'error: cannot read the image .*{name}: .*\n', done.stderr)
        animation = dict(save_all=True, append_images=frames[1:], lossless=True)
        frames[0].save(tmp_path / 'two.gif', **animation)
        frames[0].save(tmp_path / 'two.webp', **animation)
        whole.crop((0, 0, 1, 1)).save(tmp_path / 'pixel.png')
        frames[0].save(tmp_path / 'one.png')
        out = {}
        for name, remark in [('two.gif', '2 pictures'), ('two.webp', '2 pictures'),
                             ('one.png', ''), ('pixel.png', '')]:
            done = self.run(model, tmp_path / name)
            assert done.returncode == 0 and remark in done.stderr, done
            out[name] = done.stdout
        assert out['two.gif'] == out['two.webp'] == out['one.png']

    @pytest.mark.parametrize('kind, message', [
        ('no metadata', 'does not say how to prepare'), ('not json', 'in no known way'),
        ('version 1', 'export it again'), ('unknown step', "unknown step 'twist'"),
        ('fixed', 'takes images'), ('two inputs', 'is not a classifier'),
        ('too small', 'needs 32x32'), ('narrow', 'too narrow')])
    def test_files_that_it_did_not_write(self, kind, message, model, tmp_path):
        onnx = pytest.importorskip('onnx')
        file, size = onnx.load(model), (9, 9)
        (entry, ), settings = file.metadata_props, json.loads(file.metadata_props[0].value)
        if kind == 'no metadata':
            del file.metadata_props[:]
        elif kind == 'two inputs':
            file.graph.input.append(onnx.helper.make_tensor_value_info('more', 1, [1]))
        elif kind == 'fixed':
            file.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 96
        elif kind == 'version 1':
            settings = dict(mean=[0] * 3, std=[1] * 3, resize=64, crop=None)
        elif kind == 'unknown step':
            settings['steps'].append({'twist': 1})
        elif kind == 'too small':
            settings['steps'].pop(1)
        elif kind == 'narrow':
            settings['steps'][1]['resize'] = dict(edge='short', side=64, backend='pillow',
                                                  interpolation='bicubic')
            size = (1, 60_000)
        entry.value = 'x' if kind == 'not json' else json.dumps(settings)
        onnx.save(file, tmp_path / 'model.onnx')
        Image.new('RGB', size).save(tmp_path / 'image.png')
        done = self.run(tmp_path / 'model.onnx', tmp_path / 'image.png')
        assert done.returncode == 1 and message in done.stderr, done
        assert done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('args, message', [
    (('--dtype', 'int8'), 'need each other'),
    (('--dtype', 'int8', '--calibrate', 'tests'), 'no images to calibrate with'),
    (('--part', 'head'), "export 'classifier'"),
    (('--num-classes', '5'), 'says how many there are'),
])
def test_errors(args, message, tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert message in command_line('export_onnx.py', DEMO, tmp_path / 'model.onnx', *args)


@pytest.mark.slow
def test_export_torch(checkpoint, tmp_path, command_line):
    out = tmp_path / 'digits.pt2'
    assert command_line('export_torch.py', DEMO, out, '--checkpoint', checkpoint[0], '--to',
                        'program') is None
    with torch.no_grad():
        scores = torch.export.load(out).module()(torch.zeros(5, 3, 64, 64))[0]
    assert scores.shape == (5, 10)
