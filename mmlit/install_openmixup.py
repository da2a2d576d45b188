"""Install openmixup, with mmcv 1 in a folder of its own: python -m mmlit.install_openmixup

openmixup 0.2.9 lives on mmcv 1, whose package has the name of mmcv 2: pip cannot hold both. Its
metadata asks for a compiled mmcv besides, which mmlit does without. So both come without their
dependencies; ``pip install "mmlit[openmixup]"`` brings these.
"""
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmlit.generations import MMCV1, OPENMIXUP, mmcv1_folder, mmcv_version


def install() -> None:
    """Run pip; what is there already stays.

    Raises:
        subprocess.CalledProcessError: If pip fails; it has said why.
    """
    _pip(OPENMIXUP)
    version = mmcv_version()
    if version and version.startswith('1.'):
        print(f'mmcv {version} is there')
        return
    folder = mmcv1_folder()
    found = mmcv_version([str(folder)])
    if f'mmcv=={found}' == MMCV1:
        print(f'mmcv {found} is in {folder}')
        return
    with tempfile.TemporaryDirectory() as temporary:
        # Its setup.py imports pkg_resources, which newer setuptools have not.
        builds = Path(temporary, 'build.txt')
        builds.write_text('setuptools<81\n')
        _pip(MMCV1, '--upgrade', '--target', str(folder), environment=dict(
            MMCV_WITH_OPS='0', PIP_BUILD_CONSTRAINT=str(builds), PIP_CONSTRAINT=str(builds)))
    importlib.invalidate_caches()
    print(f'mmcv {mmcv_version([str(folder)])} is in {folder}')


def _pip(*arguments: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet',
         '--no-deps', *arguments], check=True, env={**os.environ, **(environment or {})})


if __name__ == '__main__':
    try:
        install()
    except subprocess.CalledProcessError as e:
        sys.exit(f'error: pip failed (status {e.returncode}); its message is above')
