"""An editable install is found from everywhere."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('setuptools', reason='an editable install without a network needs setuptools')
ROOT = Path(__file__).parents[1]


def test_package_is_found_from_the_folder_above_a_clone(tmp_path):
    """There the clone is a folder `mmlit` without __init__.py, which shadows any import hook."""
    clone, site = tmp_path / 'mmlit', tmp_path / 'site'
    clone.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, clone)
    shutil.copytree(ROOT / 'mmlit', clone / 'mmlit', ignore=shutil.ignore_patterns('__pycache__'))
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation',
         '--no-index', '--target', str(site), '-e', str(clone)],
        capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # As the interpreter does with its own folder of packages; the clone of these tests is no part
    # of it.
    code = (f'import site, sys; site.addsitedir({str(site)!r}); '
            "import importlib.util as u; print(u.find_spec('mmlit').origin)")
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    for folder in (tmp_path, clone, site):
        found = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True,
                               cwd=folder, env=environment)
        assert found.stdout.strip() == str(clone / 'mmlit/__init__.py'), (folder, found)
