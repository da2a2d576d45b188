"""Two generations of mmcv side by side: openmixup lives on mmcv 1, the other toolkits on mmcv 2.

Both are the package ``mmcv``, so a process serves one of them. mmcv 2 is installed as usual; mmcv 1
lies in a folder of its own, which comes first on Python's path once openmixup is imported. An
environment whose own mmcv is of generation 1 is used as it is.
"""
import importlib
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from mmlit.errors import GenerationError

OPENMIXUP = 'openmixup==0.2.9'
MMCV1 = 'mmcv==1.7.2'
INSTALL = 'python -m mmlit.install_openmixup'
TOOLKITS = ('mmdet', 'mmseg', 'mmpretrain')  # of mmcv 2


def mmcv1_folder() -> Path:
    """Where mmcv 1 lies beside an mmcv 2: ``$MMLIT_MMCV1``, or a folder of this environment."""
    return Path(os.environ.get('MMLIT_MMCV1')
                or Path(sysconfig.get_path('data'), 'share', 'mmlit', 'mmcv1'))


def mmcv_version(path: list[str] | None = None) -> str | None:
    """The version of the mmcv that is imported, or would be, from ``path``; None without one."""
    if path is None and sys.modules.get('mmcv'):
        return sys.modules['mmcv'].__version__
    spec = PathFinder.find_spec('mmcv', path)
    if spec is None or not spec.origin:
        return None
    text = Path(spec.origin).with_name('version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = ['\"](.+?)['\"]", text)[1]


def use_mmcv1() -> None:
    """Make ``import mmcv`` give mmcv 1 in this process, where it does not do so by itself.

    The toolkits of mmcv 2 then cannot be imported: openmixup tries to, where they are there.

    Raises:
        GenerationError: If mmcv 2 is imported already, or there is no mmcv 1.
    """
    version = mmcv_version()
    if version and version.startswith('1.'):
        return
    if 'mmcv' in sys.modules:
        raise GenerationError(
            f'openmixup needs mmcv 1, and mmcv {version} is imported in this process already. A '
            'process serves one of the two: use openmixup in another one, or import '
            'mmlit.openmixup before anything that imports mmcv')
    folder = mmcv1_folder()
    if mmcv_version([str(folder)]) is None:
        here = f'mmcv {version} is installed, and' if version else 'no mmcv is installed, and'
        raise GenerationError(f'openmixup needs mmcv 1; {here} none is in {folder}. This puts it '
                              f'there: {INSTALL}')
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    sys.meta_path.insert(0, _Hidden())


def use_mmcv2() -> None:
    """Check that this process does not serve mmcv 1.

    Raises:
        GenerationError: If it does.
    """
    if 'mmcv' in sys.modules and mmcv_version().startswith('1.'):
        raise GenerationError(_serves_openmixup('mmengine configs and their toolkits'))


def prepare_openmixup() -> None:
    """Let ``import openmixup``, wherever it is said, find what it needs on a current machine."""
    if not any(isinstance(finder, _Openmixup) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Openmixup())


def _serves_openmixup(what: str) -> str:
    return (f'{what} need mmcv 2, and this process serves openmixup, with mmcv {mmcv_version()}: '
            'use them in another process')


class _Around(Loader):
    """A package's own loader, between something before and something after."""

    def __init__(self, loader: Loader, before: Callable[[], None], after: Callable[[], None]):
        self.loader, self.before, self.after = loader, before, after

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        self.before()
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.after()


class _Openmixup(MetaPathFinder):

    def find_spec(self, fullname: str, path, target=None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname) if fullname == 'openmixup' else None
        if spec and spec.loader:
            spec.loader = _Around(spec.loader, use_mmcv1,
                                  lambda: importlib.import_module('mmlit.openmixup'))
        return spec


class _Hidden(MetaPathFinder, Loader):
    """Says why the toolkits of mmcv 2 cannot be imported beside mmcv 1, as an ImportError."""

    def find_spec(self, fullname: str, path, target=None) -> ModuleSpec | None:
        found = fullname in TOOLKITS and PathFinder.find_spec(fullname)
        return ModuleSpec(fullname, self, is_package=True) if found else None

    def create_module(self, spec: ModuleSpec) -> None:
        raise ModuleNotFoundError(_serves_openmixup(spec.name), name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError('create_module comes first')
