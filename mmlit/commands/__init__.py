"""The command ``mmlit``: one module for each of its commands, which the files of tools/ call too.

A module has ``add_arguments(parser)`` and ``run(args)``, and its docstring is its help. Beside what
was parsed, ``args.words`` are the arguments as given, and ``args.called`` what stood before them.
"""
import difflib
import importlib
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from mmlit import __version__
from mmlit.command_line import clean_errors

COMMANDS = {
    'train': 'train a config, or go on with a training',
    'test': 'metrics of a checkpoint on validation data',
    'visualize': 'draw what a model sees in images',
    'export': 'write ONNX, a torch.export program, or compiled code',
    'convert': 'bring a checkpoint into the layout of another codebase',
    'publish': 'strip a checkpoint and stamp it with its hash',
    'flops': "parameters and multiply-adds of a config's model",
    'benchmark': "speed and memory of LITv2's forms and of timm's models",
    'models': 'list variants, published weights and configs',
}
HELP = ('LITv2 for PyTorch, openmixup and OpenMMLab\n\n'
        + '\n'.join(f'  {name:11}{what}' for name, what in COMMANDS.items()),
        'A config is a file, or one of an installed package by name, such as\n'
        'mmlit::detection/retinanet_litv2-s_fpn_1x_coco.py or mmdet::...')


def main(argv: list[str] | None = None) -> None:
    """``mmlit COMMAND ...``, and ``python -m mmlit COMMAND ...``.

    Args:
        argv: The words after ``mmlit``; those of the process when None.
    """
    words = sys.argv[1:] if argv is None else argv
    called = 'python -m mmlit' if Path(sys.argv[0]).name == '__main__.py' else 'mmlit'
    if words and words[0] in COMMANDS:
        _run(words[0], words[1:], f'{called} {words[0]}')
        return
    parser = ArgumentParser(called, '%(prog)s COMMAND ...    (COMMAND --help says more)', HELP[0],
                            HELP[1], formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version', version=f'mmlit {__version__}')
    parser.add_argument('command', nargs='?', help=SUPPRESS)
    name = parser.parse_args(words[:1]).command
    if name is None:
        parser.print_help()
        sys.exit(2)
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    parser.error(f'there is no command {name!r}' + ''.join(f'; did you mean {c}?' for c in close))


def tool(name: str, *options: str) -> None:
    """What a file of tools/ does: a command, with ``options`` before those of the process."""
    _run(name, [*options, *sys.argv[1:]], f'python {sys.argv[0]}', Path(sys.argv[0]).name)


def _run(name: str, words: list[str], called: str, prog: str | None = None) -> None:
    command = importlib.import_module(f'mmlit.commands.{name}')
    parser = ArgumentParser(prog or called, description=command.__doc__,
                            formatter_class=RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    with clean_errors():
        args = parser.parse_args(words)
        args.words, args.called = words, called
        command.run(args)
