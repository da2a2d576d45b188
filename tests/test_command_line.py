"""Mistakes on command lines: one paragraph, a status that is not 0, no traceback."""
import runpy
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from mmlit.command_line import add_common_arguments, device, positive, seed

TOOLS = Path(__file__).parents[1] / 'tools'


def parse(*args):
    parser = ArgumentParser()
    add_common_arguments(parser)
    parser.add_argument('--seed', type=seed)
    parser.add_argument('--batch', type=positive)
    parser.add_argument('--device', type=device)
    return parser.parse_args(args)


@pytest.mark.parametrize('text', ['model.depth', '=3', 'a..b=1', '.a=1', 'a.=1', 'a=[1,(2]',
                                  'a=[[1,2]', 'a=1,(2', ''])
def test_options_that_are_no_settings_are_mistakes_of_the_command_line(text, capsys):
    with pytest.raises(SystemExit) as e:
        parse('--cfg-options', 'b=1', text)
    assert e.value.code == 2
    assert repr(text) in capsys.readouterr().err


def test_options_are_read_as_before():
    options = parse('--cfg-options', 'a.b=[1,(2,x)]', 'c=a=b', 'd=', '--cfg-options', 'e=None')
    assert options.cfg_options == {'a.b': [1, (2, 'x')], 'c': 'a=b', 'd': '', 'e': None}


@pytest.mark.parametrize('args', [
    ('--seed', '-1'), ('--seed', str(2**32)), ('--seed', '1.5'), ('--seed', 'x'), ('--seed', ''),
    ('--batch', '0'), ('--batch', '-3'), ('--batch', '9' * 5000), ('--device', 'tpu'),
    ('--device', 'cuda:99')])
def test_numbers_and_devices_that_cannot_be_are_refused(args, capsys):
    with pytest.raises(SystemExit) as e:
        parse(*args)
    assert e.value.code == 2 and args[0] in capsys.readouterr().err


def test_numbers_at_the_ends_are_taken():
    assert parse('--seed', '0').seed == 0 and parse('--seed', str(2**32 - 1)).seed == 2**32 - 1


@pytest.fixture
def run(monkeypatch, capsys):
    """A tool in this process: its status, and what it wrote to stderr."""

    def run(script: str, *args):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        monkeypatch.syspath_prepend(str(TOOLS))
        with pytest.raises(SystemExit) as e:
            runpy.run_path(str(TOOLS / script), run_name='__main__')
        code, err = e.value.code, capsys.readouterr().err
        return (1, code) if isinstance(code, str) else (code, err)

    return run


def bad_files(folder: Path) -> dict[str, Path]:
    made = {name: folder / name for name in ('none.py', 'folder.py', 'empty.py', 'binary.py',
                                             'text.json', 'broken.py', 'x' * 300 + '.py')}
    made['folder.py'].mkdir()
    made['empty.py'].write_text('')
    made['binary.py'].write_bytes(bytes(range(256)))
    made['text.json'].write_text('{}')
    made['broken.py'].write_text('model = dict(\n')
    return made


@pytest.mark.parametrize('script, rest', [
    ('train.py', ()), ('test.py', ('none.pth', )), ('get_flops.py', ()),
    ('visualize.py', ('none.pth', 'none.png', '--out', 'out')),
    ('export_onnx.py', ('out.onnx', )), ('export_torch.py', ('out.pt2', '--to', 'program'))])
def test_configs_that_are_none_are_one_paragraph_in_every_tool(script, rest, run, tmp_path,
                                                               monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = bad_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    for name, path in files.items():
        status, err = run(script, path, *rest)
        assert status == 1 and err.startswith('error: ') and '\n' not in err.strip(), (name, err)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('script, args, message', [
    ('test.py', ('c.py', 'x.pth', '--out', 'there.json'), '--overwrite'),
    ('test.py', ('c.py', 'x.pth', '--out', 'there.json/x.json'), 'not a folder'),
    ('test.py', ('c.py', 'x.pth', '--out', 'x.pkl'), 'end with .json'),
    ('export_onnx.py', ('litv2_tiny', 'there.onnx'), '--overwrite'),
    ('export_onnx.py', ('litv2_tiny', 'model.pt'), 'end with .onnx'),
    ('export_onnx.py', ('litv2_tiny', '.'), 'end with .onnx'),
    ('export_onnx.py', ('litv2_tiny', 'm.onnx', '--dtype', 'int8', '--calibrate', 'no'),
     'no such folder'),
    ('export_onnx.py', ('litv2_tiny', 'm.onnx', '--dtype', 'int8', '--calibrate', 'empty'),
     'no images'),
    ('export_torch.py', ('litv2_tiny', 'there.pt2', '--to', 'program'), '--overwrite'),
    ('export_torch.py', ('litv2_tiny', 'm.onnx', '--to', 'program'), 'end with .pt2'),
    ('benchmark.py', ('litv2_small', '--json', 'there.json'), '--overwrite'),
    ('benchmark_attention.py', ('--csv', 'there.json/x.csv'), 'not a folder'),
    ('benchmark_resolution.py', ('--json', 'there.json'), '--overwrite'),
])
def test_outputs_are_checked_before_any_work(script, args, message, run, tmp_path, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError('the work began')

    monkeypatch.setattr('mmlit.commands.export.load_part', work)
    monkeypatch.setattr('mmlit.commands.test.trainer_for', work)
    monkeypatch.setattr('mmlit.commands.benchmark.build', work)
    monkeypatch.setattr('mmlit.benchmark.measuring.interleave', work)
    monkeypatch.chdir(tmp_path)
    for name in ('there.json', 'there.onnx', 'there.pt2'):
        (tmp_path / name).write_text('mine')
    (tmp_path / 'empty').mkdir()
    status, err = run(script, *args)
    assert status == 1 and message in err and err.startswith('error: ')
    assert (tmp_path / 'there.json').read_text() == 'mine'


@pytest.mark.parametrize('script, args', [
    ('train.py', ('c.py', '--seed', '-1')), ('train.py', ('c.py', '--seed', 'x')),
    ('train.py', ('c.py', '--cfg-options', 'lr')), ('test.py', ('c.py', 'x', '--cfg-options', '=')),
    ('get_flops.py', ('c.py', '--shape', '0', '5')), ('profile_ops.py', ('--batch', '-1')),
    ('benchmark.py', ('--device', 'tpu'))])
def test_wrong_arguments_end_in_the_parser(script, args, run, monkeypatch):
    status, err = run(script, *args)
    assert status == 2 and 'error: argument' in err and 'Traceback' not in err


def test_an_image_to_calibrate_with_that_is_none_is_found_before_the_export(run, tmp_path,
                                                                           monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError('the export began')

    monkeypatch.setattr('mmlit.commands.export.export_onnx', work)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/broken.png').write_bytes(b'\x89PNG')
    status, err = run('export_onnx.py', 'litv2_tiny', tmp_path / 'm.onnx', '--dtype', 'int8',
                      '--calibrate', tmp_path / 'images')
    assert status == 1 and 'broken.png' in err
