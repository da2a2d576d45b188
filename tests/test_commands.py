"""The command mmlit: what it says, and which configs it finds by name."""
import importlib.util
import json
import runpy
import signal
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

import mmlit
from mmlit import commands
from mmlit.command_line import config
from mmlit.config_files import read_config
from mmlit.errors import ConfigError
from mmlit.package_files import config_names, find_config, load_tool

ROOT = Path(__file__).parents[1]
RETINANET = 'mmlit::detection/retinanet_litv2-s_fpn_1x_coco.py'


@pytest.fixture
def run(monkeypatch, capsys):
    """A command in this process: its status, and what it wrote to both streams."""

    def run(*words, program: str = '/usr/bin/mmlit'):
        monkeypatch.setattr(sys, 'argv', [program, *map(str, words)])
        try:
            commands.main()
            status = 0
        except SystemExit as e:
            status = e.code
        streams = capsys.readouterr()
        return (1, status) if isinstance(status, str) else (status, streams.out + streams.err)

    return run


@pytest.mark.parametrize('words, status', [((), 2), (('--help', ), 0)])
def test_help_fits_a_screen(run, words, status):
    code, said = run(*words)
    assert code == status
    lines = said.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(f'\n  {name} ' in said for name in commands.COMMANDS)


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_every_command_has_help(run, name):
    code, said = run(name, '--help')
    assert code == 0 and said.startswith(f'usage: mmlit {name} ')


def test_version(run):
    assert run('--version') == (0, f'mmlit {mmlit.__version__}\n')


def test_unknown_commands_are_named(run):
    code, said = run('trian', 'config.py')
    assert code == 2 and "no command 'trian'; did you mean train?" in said
    code, said = run('xyz')
    assert code == 2 and 'did you mean' not in said


def test_as_a_module_it_says_so(run):
    _, said = run('train', program='/x/mmlit/__main__.py')
    assert said.startswith('usage: python -m mmlit train')


@pytest.mark.parametrize('name, command', [
    ('train', 'train'), ('test', 'test'), ('visualize', 'visualize'), ('export_onnx', 'export'),
    ('export_torch', 'export'), ('convert_checkpoint', 'convert'), ('publish_model', 'publish'),
    ('get_flops', 'flops'), ('benchmark', 'benchmark')])
def test_tools_are_the_commands(name, command, monkeypatch, capsys):
    path = ROOT / f'tools/{name}.py'
    assert f'tool({command!r}' in path.read_text() and len(path.read_text().splitlines()) == 5
    monkeypatch.setattr(sys, 'argv', [str(path), '--help'])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(path), run_name='__main__')
    assert not e.value.code and capsys.readouterr().out.startswith(f'usage: {path.name} ')


@pytest.mark.parametrize('program, words, again', [
    ('/usr/bin/mmlit', ['train', 'c.py', '--seed', '1'], 'mmlit train c.py --seed 1 --resume'),
    ('/x/mmlit/__main__.py', ['train', 'a b.py', '--resume'],
     "python -m mmlit train 'a b.py' --resume"),
    ('/usr/bin/mmlit', ['train', 'c.py', '--resume=old.pth'], 'mmlit train c.py --resume'),
    ('tools/train.py', ['c.py', '--resume', 'old.pth'], 'python tools/train.py c.py --resume')])
def test_a_stopped_training_says_how_to_go_on(program, words, again, monkeypatch, capsys):
    def stopped(path):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmlit.commands.train.trainer_for', stopped)
    monkeypatch.setattr(sys, 'argv', [program, *words])
    with pytest.raises(SystemExit) as e:
        commands.main() if words[0] == 'train' else commands.tool('train')
    assert e.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err.strip().endswith(f'in the work dir: {again}')


def test_names_lead_to_files():
    names = config_names()
    assert RETINANET in names
    for name in names:
        relative = name.removeprefix('mmlit::')
        assert find_config(name).samefile(ROOT / 'configs' / relative) and config(name) != name
    assert config('configs/x.py') == 'configs/x.py'


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmpretrain'])
def test_names_of_other_packages(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f'{package} is not installed')
    names = config_names(Path(spec.origin).parent / '.mim/configs', package)
    assert len(names) > 50 and find_config(names[0]).is_file()


@pytest.mark.parametrize('name, message', [
    ('mmlit::detection/retinanet_litv2-s_1x_coco.py', RETINANET),
    ('mmlit::retinanet_litv2-s_fpn_1x_coco.py', RETINANET),
    ('mmlit::detection/retinanet_litv2-s_fpn_1x_coco', RETINANET),
    ('mmlit::nothing/of/the/kind.py', 'no config mmlit::nothing'),
    ('nopackage::x.py', "there is no package 'nopackage' here"),
    ('::x.py', "there is no package '' here"),
    ('json::x.py', 'is not there, where packages of OpenMMLab keep them')])
def test_names_that_are_none(name, message, run, tmp_path):
    with pytest.raises(ConfigError) as e:
        find_config(name)
    assert message in str(e.value)
    assert run('flops', name) == (1, f'error: {e.value}')
    (tmp_path / 'mine.py').write_text(f'_base_ = {name!r}\nmodel = dict()')
    if name.startswith('mmlit::'):
        with pytest.raises(ConfigError, match='mine.py, line 1: no config mmlit::'):
            read_config(tmp_path / 'mine.py')


def test_a_path_that_is_none_may_be_a_name(run, tmp_path):
    code, said = run('flops', tmp_path / 'retinanet_litv2-s_fpn_1x_coco.py')
    assert code == 1 and f'Did you mean {RETINANET}' in said
    (tmp_path / 'my_config.py').touch()
    code, said = run('flops', tmp_path / 'my_confg.py')
    assert code == 1 and f'Did you mean {tmp_path}/my_config.py?' in said


def needs_mmdet():
    """Whose configs ours build upon; it is not imported."""
    if importlib.util.find_spec('mmdet') is None:
        pytest.skip('mmdet is not installed')


BASE = 'mmlit::detection/_base_/adamw_1x.py'


def test_bases_by_name_are_read_as_by_path(tmp_path):
    """mmengine would build them in a scope `mmlit`, where there is nothing but LITv2."""
    needs_mmdet()
    text = 'optim_wrapper = _base_.optim_wrapper\nmodel = dict()'
    loaded = []
    for base in (BASE, str(find_config(BASE))):
        path = tmp_path / f'{len(loaded)}.py'
        path.write_text(f'_base_ = [{base!r}]\n{text}')
        loaded.append(Config.fromfile(path).to_dict())
    assert loaded[0] == loaded[1]
    assert read_config(tmp_path / '0.py').generation == 'mmengine'


def test_mmengines_hub_finds_config_and_weights():
    needs_mmdet()
    found = get_config(RETINANET, pretrained=True)
    assert found.model_path.endswith('retinanet_litv2_s_fpn_1x_coco.pth')


def test_openmixups_configs_have_no_names_of_bases(tmp_path):
    name = 'mmlit::classification/digits/lit_v2_digits_sz64_bs64_ep12.py'
    (tmp_path / 'mine.py').write_text(f'_base_ = {name!r}')
    with pytest.raises(ConfigError) as e:
        read_config(tmp_path / 'mine.py')
    assert repr(str(find_config(name))) in str(e.value)


def test_models_are_listed(run):
    pytest.importorskip('torch.utils.flop_counter')
    code, said = run('models')
    assert code == 0
    for row in ('| litv2_small  | 27.8 ', '| litv2_base   | 86.5 ', 'in1k_alpha0.5', '384    84.7'):
        assert row in said
    assert run('models', '--configs') == (0, '\n'.join(config_names()) + '\n')


@pytest.mark.parametrize('words, message', [
    (('m.pt2', ), '--to program or --to package?'),
    (('m.onnx', '--shape', '1', '32', '32'), '--shape has no meaning with --to onnx'),
    (('m.pt2', '--to', 'program', '--dtype', 'int8'), '--dtype has no meaning with --to program'),
    (('m.pt2', '--to', 'package', '--calibration-images', '3'), '--calibration-images has no')])
def test_what_an_export_cannot_mean_is_refused(words, message, run, monkeypatch):
    monkeypatch.setattr('mmlit.commands.export.load_part', None)
    code, said = run('export', 'litv2_tiny', *words)
    assert code == 1 and message in said


def test_benchmarks_measure_memory_as_they_were_called(monkeypatch, tmp_path):
    """In processes of their own: through `python -m mmlit`, whichever way this one was called."""
    from mmlit.commands import benchmark
    started = []
    monkeypatch.setattr(benchmark, 'memory_in_a_process',
                        lambda command, name: started.append((command, name)) or 2**20)
    words = ['litv2_small', '--shape', '32', '32', '--batch', '1', '--rounds', '1', '--seconds',
             '0.01', '--json', str(tmp_path / 'out.json')]
    monkeypatch.setattr(benchmark, 'machine_rates', lambda *args: dict(operations=1, bytes=1))
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmlit', 'benchmark', *words])
    commands.main()
    assert started == [(['-m', 'mmlit', 'benchmark', *words], 'litv2_small')]
    assert json.loads((tmp_path / 'out.json').read_text())['command'] == words


def test_files_that_run_without_mmlit_are_read_from_tools():
    assert load_tool('prepare_images').prepare.__module__ == 'prepare_images'
