"""Train a config: python tools/train.py CONFIG [--work-dir DIR] [--resume] ..."""
import argparse

from mmlit.command_line import add_common_arguments, clean_errors, require_openmixup


def parse_args():
    parser = argparse.ArgumentParser(description='Train a config')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the last one in the work dir')
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights')
    parser.add_argument('--seed', type=int, help='random seed; drawn, and logged, if not given')
    parser.add_argument('--deterministic', action='store_true')
    add_common_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        require_openmixup(args.config)
        from mmlit.openmixup.trainer import train
        train(args.config, args.work_dir, args.resume, args.load_from, args.cfg_options, args.seed,
              args.deterministic, args.launcher)


if __name__ == '__main__':
    main()
