import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / 'configs/classification/digits/lit_v2_digits_sz64_bs64_ep12.py'

if importlib.util.find_spec('openmixup') is None:
    collect_ignore_glob = ['test_*.py']
else:
    importlib.import_module('mmlit.openmixup')  # before it, openmixup may not be importable


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The demo's data set, as its converter writes it."""
    out = tmp_path_factory.mktemp('data') / 'digits'
    runpy.run_path(str(ROOT / 'tools/dataset_converters/digits.py'))['convert'](out)
    return out


@pytest.fixture(scope='session')
def data_options(digits):
    """--cfg-options that point the demo's config to 128 training and 64 validation images."""
    options = ['data.workers_per_gpu=0', 'evaluation.workers_per_gpu=0', 'data.imgs_per_gpu=16']
    for split, n in [('train', 128), ('val', 64)]:
        lines = (digits / f'meta/{split}.txt').read_text().splitlines(keepends=True)
        short = digits / f'meta/{split}_{n}.txt'
        short.write_text(''.join(lines[::len(lines) // n][:n]))
        source = f'data.{split}.data_source'
        options += [f'{source}.root={digits / split}', f'{source}.list_file={short}']
    return options


@pytest.fixture
def command_line(monkeypatch):
    """Runs a script under tools/ in this process; returns what it would exit with, or None."""

    def run(script: str, *args):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        try:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        except SystemExit as e:
            return e.code

    return run
