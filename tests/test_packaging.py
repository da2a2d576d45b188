"""What is built installs elsewhere: wheel, sdist, and an editable install."""
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import mmlit
from mmlit.generations import mmcv1_folder

pytest.importorskip('setuptools', reason='building without a network needs setuptools')
ROOT = Path(__file__).parents[1]
SOURCES = ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml', 'configs',
           'tools', 'mmlit')
# Without the clone of these tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
ENVIRONMENT['MMLIT_MMCV1'] = str(mmcv1_folder())  # which is this environment's
BUILD = 'import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])'


def run(*command, cwd: Path) -> str:
    """What a command prints; it succeeds."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=ENVIRONMENT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def copy_sources(to: Path) -> Path:
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, symlinks=True,
                            ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(ROOT / name, to)
    return to


def test_package_is_found_from_the_folder_above_a_clone(tmp_path):
    """There the clone is a folder `mmlit` without __init__.py, which shadows any import hook."""
    clone, site = copy_sources(tmp_path / 'mmlit'), tmp_path / 'site'
    run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation',
        '--no-index', '--target', site, '-e', clone, cwd=tmp_path)
    # As the interpreter does with its own folder of packages; the clone of these tests is no part
    # of it.
    code = (f'import site, sys; site.addsitedir({str(site)!r}); '
            "import importlib.util as u; print(u.find_spec('mmlit').origin)")
    for folder in (tmp_path, clone, site):
        found = run(sys.executable, '-S', '-c', code, cwd=folder)
        assert found.strip() == str(clone / 'mmlit/__init__.py'), (folder, found)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of an unpacked sdist, which is that of the clone file by file."""
    folder = tmp_path_factory.mktemp('built')
    clone = copy_sources(folder / 'clone')
    for kind in ('build_sdist', 'build_wheel'):
        run(sys.executable, '-c', BUILD, kind, folder, cwd=clone)
    sdist, = folder.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / 'sdist', filter='data')
    unpacked, = (folder / 'sdist').iterdir()
    run(sys.executable, '-c', BUILD, 'build_wheel', folder / 'sdist', cwd=unpacked)
    path, = (folder / 'sdist').glob('*.whl')
    assert contents(path) == contents(folder / path.name)
    return path


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()
                if not name.endswith('/RECORD')}


def test_wheel_holds_what_the_clone_does(wheel):
    files = contents(wheel)
    for folder in ('configs', 'tools', 'mmlit'):
        ours = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / folder).rglob('*')
                if path.is_file() and not {'__pycache__', '.mim'} & set(path.parts)}
        prefix = '' if folder == 'mmlit' else 'mmlit/.mim/'
        assert {name: path.read_bytes() for name, path in ours.items()} == {
            name.removeprefix(prefix): data for name, data in files.items()
            if name.startswith(f'{prefix}{folder}/') and (prefix or '/.mim/' not in name)}
    assert files['mmlit/.mim/model-index.yml'] == (ROOT / 'model-index.yml').read_bytes()
    assert 'mmlit/py.typed' in files
    assert f'mmlit-{mmlit.__version__}.dist-info/entry_points.txt' in files


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """The `bin` of an environment that has the wheel, and from this one all but mmlit."""
    folder = tmp_path_factory.mktemp('elsewhere') / 'env'
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder.parent)
    python = folder / 'bin/python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-index',
        wheel, cwd=folder.parent)
    site, = (folder / 'lib').glob('python*/site-packages')
    # Of a folder that is named in a .pth, no .pth is read: an editable mmlit stays out of sight.
    (site / 'others.pth').write_text(sysconfig.get_path('purelib'))
    found = run(python, '-c', 'import mmlit; print(mmlit.__file__)', cwd=folder.parent)
    assert Path(found.splitlines()[-1]) == site / 'mmlit/__init__.py'
    return folder / 'bin', site / 'mmlit/.mim'


@pytest.mark.slow
def test_the_command_trains_a_config_by_name(installed, tmp_path):
    for package in ('openmixup', 'sklearn'):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}')
    programs, mim = installed
    run(programs / 'python', mim / 'tools/dataset_converters/digits.py', cwd=tmp_path)
    for split in ('train', 'val'):
        path = tmp_path / f'data/digits/meta/{split}.txt'
        path.write_text(''.join(path.read_text().splitlines(keepends=True)[::20][:16]))
    name = 'mmlit::classification/digits/lit_v2_digits_sz64_bs64_ep12.py'
    options = ['--cfg-options', 'data.imgs_per_gpu=8', 'data.workers_per_gpu=0',
               'evaluation.workers_per_gpu=0']
    work = tmp_path / 'work_dirs/lit_v2_digits_sz64_bs64_ep12'
    run(programs / 'mmlit', 'train', name, *options, 'runner.max_epochs=1', cwd=tmp_path)
    said = run(programs / 'python', mim / 'tools/test.py', name, work / 'epoch_1.pth', *options,
               cwd=tmp_path)
    assert 'head0_top1' in said


@pytest.mark.slow
def test_bases_by_name_are_found_and_trained(installed, tmp_path):
    for package in ('mmdet', 'sklearn', 'skimage'):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}')
    programs, mim = installed
    run(programs / 'python', mim / 'tools/dataset_converters/digit_scenes.py', '--train', 4,
        '--val', 2, cwd=tmp_path)
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmlit::detection/digits/retinanet_litv2-digits.py'\n"
        "model = dict(backbone=dict(init_cfg=None), neck=_base_.model.neck)\n"
        "train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n"
        "val_dataloader = dict(num_workers=0, persistent_workers=False)\n"
        "test_dataloader = val_dataloader\n"
        "train_cfg = dict(max_epochs=1)\n")
    said = run(programs / 'mmlit', 'train', 'mine.py', cwd=tmp_path)
    assert 'Epoch(val)' in said and 'Failed to search registry' not in said
    assert (tmp_path / 'work_dirs/mine/epoch_1.pth').is_file()
