"""What the commands and the files of tools/ share."""
import contextlib
import errno
import importlib
import importlib.util
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from types import ModuleType

from mmengine.config import DictAction

from mmlit.config_files import ConfigFile, read_config
from mmlit.errors import ConfigError, MMLitError
from mmlit.generations import INSTALL, TOOLKITS
from mmlit.package_files import find_config

# Conditions of the machine that a user can mend, which Python reports as OSError.
FILE_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ELOOP, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}
# Of torch and safetensors, whose errors on a full disk are no OSError.
FAILED_WRITES = re.compile(r'PytorchStreamWriter|inline_container\.cc|[Nn]o space left|'
                           r'[Ff]ile too large|[Dd]isk quota exceeded|os error (27|28|30|122)\b')
STOPPED = 130  # the status of programs that Ctrl-C ended


@contextlib.contextmanager
def clean_errors(when_stopped: str = 'stopped by Ctrl-C'):
    """Print errors that the user can mend as one paragraph, and exit with a status that is not 0.

    These are the errors of mmlit, files and disks that cannot be written or read, and Ctrl-C.

    Args:
        when_stopped: What to print after Ctrl-C.
    """
    try:
        yield
    except MMLitError as e:
        # From a worker of a data loader the message arrives inside a traceback, at its end.
        message = str(e).rsplit(f'{type(e).__name__}: ', 1)[-1].strip()
        sys.exit(f'error: {message}')
    except KeyboardInterrupt:
        print(f'\n{when_stopped}', file=sys.stderr)
        sys.stderr.flush()
        sys.exit(STOPPED)
    except OSError as e:
        if e.errno not in FILE_ERRORS:
            raise
        where = f' {e.filename}' if e.filename else ''
        sys.exit(f'error: cannot read or write{where}: {e.strerror}')
    except Exception as e:
        if not FAILED_WRITES.search(str(e)):
            raise
        sys.exit(f'error: a file cannot be written; is the disk full? ({_first_line(e)})')


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n', 1)[0]


class Options(DictAction):
    """--cfg-options, whose mistakes end the program as those of other arguments do."""

    def __call__(self, parser, namespace, values, option_string=None):
        for text in values:
            key, equals, _ = text.partition('=')
            if not equals or not all(key.split('.')):
                parser.error(f'argument {option_string}: expected KEY=VALUE, got {text!r}')
            try:
                super().__call__(parser, namespace, [text], option_string)
            except (AssertionError, ValueError, IndexError, RecursionError) as e:
                parser.error(f'argument {option_string}: cannot read the value of {text!r}: {e}')


def seed(text: str) -> int:
    """An argument that random numbers can start from: NumPy takes 32 bits."""
    return _whole_number(text, 0, 2**32 - 1)


def positive(text: str) -> int:
    """An argument that counts something."""
    return _whole_number(text, 1, 2**31 - 1)


def _whole_number(text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ArgumentTypeError(f'expected a whole number from {least} to {most}, got {text!r}')
    return value


def device(text: str) -> str:
    """An argument that names a device of this machine."""
    import torch
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ArgumentTypeError(f'{text!r} is not there: {_first_line(e)}') from None
    return text


def config(text: str) -> str:
    """An argument that is a config: a path, or the name of one of an installed package.

    Raises:
        ConfigError: If there is none of this name.
    """
    return str(find_config(text)) if '::' in text else text


def add_config(parser: ArgumentParser) -> None:
    """The argument of commands that take one config."""
    parser.add_argument('config', type=config, metavar='CONFIG',
                        help='path of a config, or a name such as mmlit::detection/...')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Arguments of trainings and tests, after OpenMMLab's."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE',
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
        ConfigError: If the config cannot be read, or what it needs is not installed.
        GenerationError: If this process serves the other generation already.
    """
    found = read_config(config)
    generation = found.generation
    missing = _missing_packages(found)
    if missing:
        how = INSTALL if missing == 'openmixup' else 'pip install "mmlit[openmmlab]"'
        raise ConfigError(f'{config} needs {missing}, which {sys.executable} has not: {how}')
    folder = {'openmixup': 'openmixup', 'mmengine': 'openmmlab'}[generation]
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
