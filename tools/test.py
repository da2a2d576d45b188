"""Test a checkpoint: python tools/test.py CONFIG CHECKPOINT"""
import argparse
import json
import os

from mmlit.command_line import add_common_arguments, clean_errors, trainer_for
from mmlit.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(description='Metrics of a checkpoint on validation data')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL, in any layout that mmlit knows')
    parser.add_argument('--out', metavar='FILE', help='also write the metrics there, as JSON')
    parser.add_argument('--tta', action='store_true',
                        help="test-time augmentation, by an mmengine config's tta_pipeline")
    add_common_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        trainer, generation = trainer_for(args.config)
        options = {}
        if generation == 'mmengine':
            options = dict(tta=args.tta)
        elif args.tta:
            raise ConfigError('--tta is for mmengine configs')
        results = trainer.test(
            args.config, args.checkpoint, args.cfg_options, args.launcher, **options)
    if int(os.environ.get('RANK', 0)) == 0:
        print('\n' + '\n'.join(f'{name}: {value:.4g}' for name, value in results.items()))
        if args.out:
            with open(args.out, 'w') as f:
                # mmseg's figures are NumPy's.
                json.dump({name: float(value) for name, value in results.items()}, f, indent=2)


if __name__ == '__main__':
    main()
