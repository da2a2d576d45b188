"""Metrics of a checkpoint on validation data."""
from argparse import ArgumentParser, Namespace

from mmlit.command_line import add_common_arguments, add_config, trainer_for
from mmlit.distributed import ranks
from mmlit.errors import ConfigError
from mmlit.outputs import add_overwrite, check_writable, line, write_json


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('checkpoint', help='path or URL, in any layout that mmlit knows')
    parser.add_argument('--out', metavar='FILE', help='also write the metrics there, as JSON')
    add_overwrite(parser)
    parser.add_argument('--tta', action='store_true',
                        help="test-time augmentation, by an mmengine config's tta_pipeline")
    add_common_arguments(parser)


def run(args: Namespace) -> None:
    rank, *_ = ranks(args.launcher)
    if args.out:
        check_writable(args.out, args.overwrite, '.json')
    trainer, generation = trainer_for(args.config)
    options = {}
    if generation == 'mmengine':
        options = dict(tta=args.tta)
    elif args.tta:
        raise ConfigError('--tta is for mmengine configs')
    results = trainer.test(args.config, args.checkpoint, args.cfg_options, args.launcher, **options)
    if rank == 0:
        print('\n' + '\n'.join(line(name, value) for name, value in results.items()))
        if args.out:
            write_json(args.out, results, args.overwrite)
