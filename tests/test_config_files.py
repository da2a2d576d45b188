"""Configs are read without running them; those that fail when run are named by file and line."""
import gc
import json
import os

import pytest

from mmlit.config_files import config_errors, read_config
from mmlit.errors import ConfigError

BASE = "default_scope = 'mmengine'\nmodel = dict()\n"


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = 'config.py'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    file(BASE, 'bases/base.py')
    return file


@pytest.mark.parametrize('text', [
    "_base_ = './bases/base.py'",
    "_base_ = ['./bases/base.py']",
    "_base_ = f'./bases/base.py'",
    "name = 'base'\n_base_ = f'./bases/{name}.py'",
    "folder = './bases'\n_base_ = [folder + '/base.py']",
    "_base_: list = ['./bases/' + 'base.py']",
    "_base_ = ['bases/base.py'] + []",
    "_base_ = '{{ fileDirname }}/bases/base.py'",
    "_base_ = 'bases/{{$NO_SUCH_VARIABLE:base}}.py'",
    "a = _base_ = ('bases/base.py', )",
    "_base_ = os.path.join('bases', 'base.py')\nval_evaluator = dict()",  # by the other names
    "from mmengine.config import read_base\nwith read_base():\n    from .bases.base import *",
    "from mmseg.models import FCN\nmodel = dict(type=FCN)",
    "_base_ = 'mmdet::_base_/default_runtime.py'"])
def test_expressions_in_base_are_read(write, text):
    assert read_config(write(text)).generation == 'mmengine'


@pytest.mark.parametrize('name, text', [
    ('c.json', json.dumps(dict(optim_wrapper={}))),
    ('c.json', json.dumps(dict(_base_='bases/base.py'))),
    ('c.yaml', '_base_: [bases/base.py]\nmodel: {}'), ('c.yml', 'train_dataloader: {}')])
def test_data_files_are_configs_too(write, name, text):
    assert read_config(write(text, name)).generation == 'mmengine'


@pytest.mark.parametrize('text, problem', [
    ("a = 1\n_base_ = './config.py'", 'line 2: _base_ leads back'),
    ("_base_ = 'bases/loop.py'", 'bases/loop.py, line 3: _base_ leads back'),
    ("\n_base_ = ['bases/none.py']", r'bases/none.py \(a base of .*config.py, line 2\)'),
    ("_base_ = 'bases/broken.py'", r'broken.py, line 2 \(a base of .*line 1\), is not Python'),
    ("_base_ = 'bases'", 'cannot read the config')])
def test_bases_that_cannot_be_read_are_named_with_file_and_line(write, text, problem):
    write("\n\n_base_ = '../config.py'", 'bases/loop.py')
    write('a = 1\nb = (', 'bases/broken.py')
    with pytest.raises(ConfigError, match=problem):
        read_config(write(text))


@pytest.mark.parametrize('name, text', [('c.json', '{"model": '), ('c.json', '[1]'),
                                        ('c.yaml', 'a: [1'), ('c.py', 'x = 1\x00')])
def test_files_that_do_not_parse_are_named(write, name, text):
    with pytest.raises(ConfigError, match=name):
        read_config(write(text, name))


@pytest.fixture(autouse=True)
def collect():
    """mmcv leaves open files behind where a config raises. Collected while a later test parses a
    config, their complaint is traced back with the parser, which CPython 3.11 cannot enter twice.
    """
    yield
    gc.collect()


def load(path):
    """As the trainer of either environment does."""
    try:
        from mmcv import Config
    except ImportError:
        from mmengine.config import Config
    with config_errors(path):
        return Config.fromfile(str(path))


@pytest.mark.parametrize('line, problem', [
    ("raise RuntimeError('no data')", 'RuntimeError: no data'), ('1 / 0', 'ZeroDivisionError'),
    ('import sys; sys.exit(3)', r'it exits \(3\)'), ('unknown + 1', 'NameError'),
    ('import sys; sys.nothing', 'AttributeError'),
    ('assert False, "a\\nb"', 'AssertionError: a b'), ("open('no/file')", 'FileNotFoundError')])
@pytest.mark.parametrize('where', ['config', 'base'])
def test_configs_that_raise_or_exit_are_named_with_file_and_line(write, line, problem, where):
    text = f'model = dict()\n\n{line}\n'
    last = 2 + len(line.splitlines())
    path = write(text)
    expected = f'cannot load the config {path}, line {last}: '
    if where == 'base':
        base = write(text, 'bases/raising.py')
        path = write("_base_ = './bases/raising.py'\n")
        expected = f'cannot load the config {path}: its base {base}, line {last}: '
    with pytest.raises(ConfigError, match=problem) as e:
        load(path)
    assert str(e.value).startswith(expected) and '\n' not in str(e.value)


def test_reading_runs_nothing(write, tmp_path):
    path = write(f'{BASE}import os\nos.mkdir({str(tmp_path / "made")!r})')
    assert read_config(path).generation == 'mmengine'
    assert not os.path.exists(tmp_path / 'made')
