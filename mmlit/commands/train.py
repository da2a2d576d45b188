"""Train a config."""
import shlex
from argparse import ArgumentParser, Namespace

from mmlit.command_line import (
    add_common_arguments,
    add_config,
    clean_errors,
    seed,
    trainer_for,
)
from mmlit.errors import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the last one in the work dir')
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights')
    parser.add_argument('--seed', type=seed, help='random seed; drawn, and logged, if not given')
    parser.add_argument('--deterministic', action='store_true')
    mmengine = parser.add_argument_group('mmengine configs only')
    mmengine.add_argument('--amp', action='store_true', help='mixed precision on CUDA')
    mmengine.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    add_common_arguments(parser)


def run(args: Namespace) -> None:
    again = [word for word in args.words if word.split('=')[0] != '--resume'] + ['--resume']
    if args.resume in again:  # what was resumed from is not the last any more
        again.remove(args.resume)
    with clean_errors('stopped by Ctrl-C; this goes on from the last checkpoint in the work dir: '
                      f'{args.called} {shlex.join(again)}'):
        trainer, generation = trainer_for(args.config)
        options = {}
        if generation == 'mmengine':
            options = dict(amp=args.amp, auto_scale_lr=args.auto_scale_lr)
        elif args.amp or args.auto_scale_lr:
            raise ConfigError('--amp and --auto-scale-lr are for mmengine configs: an openmixup '
                              'config says use_fp16=True, and its own optimizer.lr')
        trainer.train(args.config, args.work_dir, args.resume, args.load_from, args.cfg_options,
                      args.seed, args.deterministic, args.launcher, **options)
