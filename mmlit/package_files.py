"""Configs and tools of installed packages, which OpenMMLab keeps in a package's folder ``.mim``."""
import difflib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from mmlit.errors import ConfigError

MIM = Path(__file__).parent / '.mim'


def register_configs() -> None:
    """Let ``_base_ = 'mmlit::...'`` and ``mmengine.hub.get_config('mmlit::...')`` find mmlit's.

    mmengine builds what a named base holds in the scope of that name. There is nothing in mmlit's
    but LITv2: such a base is to be read as if it were named by its path.
    """
    # The folder of a distribution of this name is where mmengine looks, which an editable install
    # leaves empty; without one, it is the folder of a module.
    MODULE2PACKAGE['mmlit'] = __name__
    find = Config._get_cfg_path

    def find_without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, None if scope == 'mmlit' else scope

    Config._get_cfg_path = staticmethod(find_without_scope)


def find_config(name: str) -> Path:
    """The file of a config by name.

    Args:
        name: 'mmlit::detection/retinanet_litv2-s_fpn_1x_coco.py', say: an installed package, and
            a path among its configs. The package is not imported.

    Raises:
        ConfigError: If there is none; the message has the names that are most like it.
    """
    package, _, wanted = name.partition('::')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.origin:
        raise ConfigError(f'no config {name}: there is no package {package!r} here')
    configs = Path(spec.origin).parent / '.mim/configs'
    if not configs.is_dir():
        raise ConfigError(f'no config {name}: {configs} is not there, where packages of OpenMMLab '
                          'keep them')
    path = configs / wanted
    if not path.is_file():
        raise ConfigError(f'no config {name} in {configs}'
                          f'{_hint(wanted, config_names(configs, package))}')
    return path


def config_names(configs: Path = MIM / 'configs', package: str = 'mmlit') -> list[str]:
    """Names that :func:`find_config` takes, of all configs in a folder that are no bases alone."""
    return sorted(f'{package}::{path.relative_to(configs).as_posix()}'
                  for path in configs.rglob('*.py') if '_base_' not in path.parts)


def did_you_mean(path: Path) -> str:
    """What may be said of a config that is not there: which are named like it, beside it and in
    mmlit."""
    beside = [str(p) for p in path.parent.glob('*.py')]
    return _hint(path.name, [*beside, *config_names()], cutoff=0.8)


def _hint(wanted: str, there: Iterable[str], cutoff: float = 0.6) -> str:
    by_file = {}
    for name in there:
        by_file.setdefault(Path(name).stem, name)
    close = difflib.get_close_matches(Path(wanted).stem, by_file, n=3, cutoff=cutoff)
    return f'. Did you mean {" or ".join(by_file[stem] for stem in close)}?' if close else ''


def load_tool(name: str) -> ModuleType:
    """A file under tools/ as a module: one that has to run where mmlit is not."""
    path = MIM / f'tools/{name}.py'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
