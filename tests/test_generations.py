"""Both generations of mmcv in one environment, each in a process of its own."""
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mmlit.generations import mmcv1_folder, mmcv_version

ROOT = Path(__file__).parents[1]
both = pytest.mark.skipif(
    importlib.util.find_spec('openmixup') is None or mmcv_version([str(mmcv1_folder())]) is None
    or not (mmcv_version() or '').startswith('2.'),
    reason='needs openmixup, an mmcv 2, and an mmcv 1 in its own folder')


def python(*args, **environment) -> str:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, args)], capture_output=True, text=True,
        cwd=ROOT, env={**os.environ, **{k: str(v) for k, v in environment.items()}})
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@both
@pytest.mark.parametrize('first', ['import mmlit.openmixup', 'import mmlit'])
def test_openmixup_finds_mmcv_1(first):
    found = python('-c', f'{first}\nfrom openmixup.models import BACKBONES\nimport mmcv\n'
                         'print(mmcv.__version__, "LITv2" in BACKBONES.module_dict)')
    assert last_line(found) == '1.7.2 True'


@both
def test_the_others_find_mmcv_2():
    found = python('-c', 'import mmlit, mmdet.models, mmseg.models, mmpretrain.models, mmcv\n'
                         'print(mmcv.__version__)')
    assert last_line(found) == mmcv_version()


@both
def test_looking_for_openmixup_changes_nothing():
    found = python('-c', 'import importlib.util, mmlit\nimportlib.util.find_spec("openmixup")\n'
                         'import mmcv, mmdet, sys\n'
                         'print(mmcv.__version__, "openmixup" in sys.modules)')
    assert last_line(found) == f'{mmcv_version()} False'


@both
@pytest.mark.parametrize('first, second', [
    ('import mmlit, mmcv', 'openmixup'), ('import mmlit, mmdet', 'mmlit.openmixup'),
    ('import mmlit.openmixup', 'mmdet'), ('import mmlit, openmixup', 'mmpretrain.models'),
    ('import mmlit.openmixup', 'mmlit.openmmlab.trainer')])
@pytest.mark.slow
def test_a_process_serves_one(first, second):
    error = last_line(python('-c', f'{first}\nimport {second}'))
    assert 'process' in error and 'mmcv' in error and error.count('Error: ') == 1
    assert ('mmcv 1.7.2' if 'openmixup' in first else f'mmcv {mmcv_version()} is imported') in error


@both
def test_without_mmcv_1_the_command_is_named(tmp_path):
    error = python('-c', 'import mmlit.openmixup', MMLIT_MMCV1=tmp_path)
    assert 'python -m mmlit.install_openmixup' in last_line(error) and str(tmp_path) in error


def test_without_openmixup_the_command_is_named():
    error = python('-c', 'import sys; sys.modules["openmixup"] = None\nimport mmlit.openmixup')
    assert 'python -m mmlit.install_openmixup' in last_line(error)


@pytest.fixture
def fakes(tmp_path):
    """A folder with an mmcv of some version; openmixup and mmdet there say which they see."""

    def make(version: str | None, compiled: bool = False) -> Path:
        for name, text in [('openmixup', 'import mmcv; print(mmcv.__version__, mmcv.__file__)'),
                           ('mmdet', 'import mmcv; print("mmdet with", mmcv.__version__)')]:
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').write_text(text)
        if version:
            (tmp_path / 'mmcv').mkdir()
            (tmp_path / 'mmcv/__init__.py').write_text('from .version import __version__')
            (tmp_path / 'mmcv/version.py').write_text(f"__version__ = '{version}'\n")
            if compiled:
                (tmp_path / 'mmcv/_ext.py').write_text('nms = "compiled"')
        return tmp_path

    return make


# What mmlit does before openmixup is executed; the fake has nothing that could be mended after it.
PREPARED = ('import mmlit, importlib; importlib.import_module = lambda name: None\n'
            'import openmixup\n')


@pytest.mark.parametrize('version', ['1.7.2', '1.6.0'])
def test_an_environment_of_mmcv_1_is_used_as_it_is(fakes, version):
    folder = fakes(version)
    found = python('-c', f'{PREPARED}import mmdet', PYTHONPATH=f'{folder}:{ROOT}')
    assert found.splitlines() == [f'{version} {folder}/mmcv/__init__.py', f'mmdet with {version}']


@pytest.mark.parametrize('version', ['1.7.2', '2.1.0'])
@pytest.mark.parametrize('compiled, expected', [(True, 'compiled True'),
                                                (False, 'mmlit.mmcv_ops.boxes False')])
def test_operators_are_supplied_where_none_are_compiled(fakes, version, compiled, expected):
    code = ('import mmlit, mmcv._ext as ext; from mmlit.mmcv_ops import is_compiled; '
            'print(getattr(ext.nms, "__module__", ext.nms), is_compiled())')
    found = python('-c', code, PYTHONPATH=f'{fakes(version, compiled)}:{ROOT}')
    assert found == expected


def test_no_operators_without_mmcv():
    found = python('-c', 'import sys, mmlit; sys.modules["mmcv"] = None\n'
                         'from mmlit.mmcv_ops import is_compiled; print(is_compiled())')
    assert found == 'False'


def test_the_folder_is_of_this_environment(monkeypatch):
    monkeypatch.delenv('MMLIT_MMCV1', raising=False)
    assert mmcv1_folder().is_relative_to(sysconfig.get_path('data'))
    assert str(mmcv1_folder()) not in sys.path


def test_run_a_script_beside_its_neighbours(tmp_path):
    (tmp_path / 'neighbour.py').write_text('NAME = "neighbour"')
    script = tmp_path / 'script.py'
    script.write_text('import sys, mmcv._ext, neighbour\n'
                      'print(__name__, neighbour.NAME, sys.argv[1:])')
    assert python('-m', 'mmlit.run', script, '--a', 'b') == "__main__ neighbour ['--a', 'b']"
    assert 'there is no script' in python('-m', 'mmlit.run', tmp_path / 'none.py')
    assert 'python -m mmlit.run PATH' in python('-m', 'mmlit.run')
