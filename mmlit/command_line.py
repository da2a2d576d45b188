"""What the command lines under tools/ share."""
import ast
import contextlib
import importlib
import importlib.util
import sys
from argparse import ArgumentParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from mmengine.config import DictAction

from mmlit.errors import ConfigError, MMLitError

# Top-level names that only one generation of OpenMMLab's configs has.
MMENGINE_NAMES = {'train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper',
                  'param_scheduler', 'default_hooks', 'val_evaluator', 'default_scope'}
OPENMIXUP_NAMES = {'data', 'optimizer', 'lr_config', 'checkpoint_config', 'log_config',
                   'evaluation', 'img_norm_cfg'}


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
        ConfigError: If the config belongs to the other environment; the message names it.
    """
    generation = config_generation(config)
    name, needed, folder = {
        'openmixup': ('an openmixup config (mmcv 1.x)', 'openmixup', 'openmixup'),
        'mmengine': ('an mmengine config (OpenMMLab 2: mmdet 3, mmseg 1)', 'mmdet', 'openmmlab'),
    }[generation]
    if importlib.util.find_spec(needed) is None:
        raise ConfigError(f'{config} is {name} and needs the environment .envs/{folder}/bin/python '
                          f'(make {folder}; see README). This Python is {_environment()}.')
    return importlib.import_module(f'mmlit.{folder}.trainer'), generation


def config_generation(path: str | Path) -> str:
    """'openmixup' or 'mmengine', by the names that a config and its bases assign.

    Reads the files without running them: the other generation's bases may not even resolve here.

    Raises:
        ConfigError: If a file is missing, does not parse, or looks like neither.
    """
    names, bases = _read_config(Path(path))
    if names & MMENGINE_NAMES or any('::' in b for b in bases):
        return 'mmengine'
    generations = {config_generation(Path(path).parent / b) for b in bases}
    if 'mmengine' in generations:
        return 'mmengine'
    if names & OPENMIXUP_NAMES or generations or 'model' in names:
        return 'openmixup'
    raise ConfigError(f'{path} is not a config: it has none of {sorted(OPENMIXUP_NAMES)} or '
                      f'{sorted(MMENGINE_NAMES)}')


def _read_config(path: Path) -> tuple[set[str], list[str]]:
    """Names assigned at top level, and the entries of ``_base_``."""
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f'cannot read the config {path.absolute()}: {e}') from None
    except SyntaxError as e:
        raise ConfigError(f'the config {path}, line {e.lineno}, is not Python: {e.msg}') from None
    names, bases = set(), []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets = {t.id for t in node.targets if isinstance(t, ast.Name)}
            names |= targets
            if '_base_' in targets:
                value = ast.literal_eval(node.value)
                bases = [value] if isinstance(value, str) else list(value)
        elif isinstance(node, ast.With):  # `with read_base():` of mmengine's Python configs
            names.add('default_scope')
    return names, bases


def _environment() -> str:
    found = []
    for package in ('openmixup', 'mmcv', 'mmcv-full', 'mmdet', 'mmsegmentation', 'onedl-mmcv',
                    'onedl-mmdetection', 'onedl-mmsegmentation'):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f'{package} {version(package)}')
    return f'{sys.executable}, with {", ".join(found) or "neither toolkit"}'
