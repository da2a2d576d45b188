"""The module ``mmcv._ext``, found only where mmcv brings none of its own."""
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from mmlit.errors import MMLitError

NAME = 'mmcv._ext'


class MissingOperatorError(MMLitError, NotImplementedError):
    """An operator of mmcv's that only its compiled extension has."""


def supply_extension() -> None:
    """Make ``mmcv._ext`` importable where mmcv is installed without it; else change nothing.

    A compiled extension is found before this one, however late mmcv is installed.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # the last, after those that look into folders


def is_compiled() -> bool:
    """Whether mmcv is there with its own compiled operators."""
    try:
        spec = importlib.util.find_spec(NAME)
    except ModuleNotFoundError:  # no mmcv
        return False
    return spec is not None and not isinstance(spec.loader, _Loader)


def module() -> ModuleType:
    """The operators of this package, as one module."""
    extension = _Loader().create_module(ModuleSpec(NAME, None))
    _Loader().exec_module(extension)
    return extension


def how_to_compile() -> str:
    """The command that brings the operators, compiled, of the mmcv that is installed."""
    import mmcv
    package = 'mmcv-full==1.7.2' if mmcv.__version__.startswith('1.') else 'mmcv==2.1.0'
    return (f'pip uninstall mmcv mmcv-lite; MMCV_WITH_OPS=1 pip install --no-build-isolation '
            f'{package} (about 12 minutes on two cores; needs a C++ compiler, and for a GPU '
            'FORCE_CUDA=1 and nvcc)')


class _Finder(MetaPathFinder):

    def find_spec(self, fullname: str, path, target=None) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        return ModuleSpec(NAME, _Loader(), origin='mmlit.mmcv_ops')


class _Loader(Loader):

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Extension(NAME, __doc__)

    def exec_module(self, module: ModuleType) -> None:
        from . import boxes, conv, focal, norm, reassembly, roi  # not before mmcv asks for them
        for room in (boxes, conv, focal, norm, reassembly, roi):
            for name in room.__all__:
                setattr(module, name, getattr(room, name))


class _Extension(ModuleType):

    def __getattr__(self, name: str) -> Callable:
        # mmcv asks for the names of all its operators when it is imported, and calls few of them.
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise MissingOperatorError(
                f"mmcv's operator {name!r} is called, which this mmcv was installed without, and "
                f'which mmlit.mmcv_ops does not have. A compiled mmcv has it: {how_to_compile()}')

        missing.__name__ = name
        return missing

    @staticmethod
    def get_compiler_version() -> str:
        return 'none (operators in PyTorch, by mmlit)'

    @staticmethod
    def get_compiling_cuda_version() -> str:
        return 'not available'
