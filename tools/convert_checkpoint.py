"""Bring a checkpoint into the layout of another codebase.

python tools/convert_checkpoint.py SRC DST --to official|openmixup|mmlit|mmdet|mmseg|timm

SRC is a file or URL in any layout that mmlit reads (docs/checkpoints.md); DST ends with .pth or
.safetensors (weights alone). Weights only: no state of an optimizer is kept.
"""
import argparse
from pathlib import Path

from mmlit.checkpoints import convert, read_checkpoint, save_weights, state_dict_of
from mmlit.checkpoints.exporting import TARGETS
from mmlit.command_line import clean_errors


def parse_args():
    parser = argparse.ArgumentParser(description='Convert a checkpoint of LITv2')
    parser.add_argument('source', help='file or URL')
    parser.add_argument('target', type=Path, help='.pth or .safetensors')
    parser.add_argument('--to', choices=list(TARGETS), required=True)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        layout, backbone, rest = convert(state_dict_of(read_checkpoint(args.source)))
        converted = TARGETS[args.to](backbone, rest)
        save_weights(converted, args.target)
    (key, state), = converted.items()
    print(f'{args.target}: {len(state)} weights under {key!r}, from the {layout} layout to '
          f'{args.to}')


if __name__ == '__main__':
    main()
