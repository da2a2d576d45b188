"""What the command lines under tools/ share."""
import contextlib
import importlib
import importlib.util
import sys
from argparse import ArgumentParser
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from mmengine.config import DictAction

from mmlit.config_files import TOOLKITS, ConfigFile, read_config
from mmlit.errors import ConfigError, MMLitError


@contextlib.contextmanager
def clean_errors():
    """Print errors that the user can mend as one paragraph, and exit with status 1."""
    try:
        yield
    except MMLitError as e:
        # From a worker of a data loader the message arrives inside a traceback, at its end.
        message = str(e).rsplit(f'{type(e).__name__}: ', 1)[-1].strip()
        sys.exit(f'error: {message}')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Arguments of tools/train.py and tools/test.py, after OpenMMLab's."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config, such as data.imgs_per_gpu=32')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it; torchrun and the others set the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def trainer_for(config: str) -> tuple[ModuleType, str]:
    """The module with ``train`` and ``test`` for a config, and the config's generation.

    Args:
        config: Path of an openmixup or mmengine config.

    Returns:
        ``mmlit.openmixup.trainer`` and 'openmixup', or ``mmlit.openmmlab.trainer`` and 'mmengine'.

    Raises:
        ConfigError: If the config cannot be read, or belongs to another environment; the message
            names it.
    """
    found = read_config(config)
    generation = found.generation
    folder = {'openmixup': 'openmixup', 'mmengine': 'openmmlab'}[generation]
    missing = _missing_packages(found)
    if missing:
        name = {'openmixup': 'an openmixup config (mmcv 1.x)',
                'mmengine': 'an mmengine config (OpenMMLab 2: mmdet 3, mmseg 1, mmpretrain 1)'}
        raise ConfigError(
            f'{config} is {name[generation]} and needs {missing}, and so the environment '
            f'.envs/{folder}/bin/python (make {folder}; see README). This Python is '
            f'{_environment()}.')
    return importlib.import_module(f'mmlit.{folder}.trainer'), generation


def _missing_packages(config: ConfigFile) -> str:
    """What a config needs and this Python has not; '' where it has all."""
    if config.generation == 'openmixup':
        return '' if importlib.util.find_spec('openmixup') else 'openmixup'
    if config.toolkits:
        return ' and '.join(sorted(t for t in config.toolkits if not importlib.util.find_spec(t)))
    if config.needs_toolkit and not any(map(importlib.util.find_spec, TOOLKITS)):
        return ' or '.join(TOOLKITS)
    return ''


def _environment() -> str:
    found = []
    for package in ('openmixup', 'mmcv', 'mmcv-full', 'mmdet', 'mmsegmentation', 'onedl-mmcv',
                    'mmpretrain', 'onedl-mmdetection', 'onedl-mmsegmentation'):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f'{package} {version(package)}')
    return f'{sys.executable}, with {", ".join(found) or "neither toolkit"}'
