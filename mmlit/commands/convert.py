"""Bring a checkpoint into the layout of another codebase.

The source is a file or URL in any layout that mmlit reads (docs/checkpoints.md); the target ends
with .pth or .safetensors, and is another file. Weights, names and colours of the classes go there:
no state of an optimizer is kept.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmlit.checkpoints import convert, read_checkpoint, save_weights, state_dict_of
from mmlit.checkpoints.exporting import TARGETS
from mmlit.checkpoints.publishing import check_source, inference_meta, refuse_own_source

FOLDED = ('official', 'openmixup')  # so that the model is another than `meta` says


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('source', help='file or URL')
    parser.add_argument('target', type=Path, help='.pth or .safetensors')
    parser.add_argument('--to', choices=list(TARGETS), required=True)
    parser.add_argument('--prefix', help="of several backbones in it this one, 'teacher.' say")
    parser.add_argument('--overwrite', action='store_true', help='replace the target if it exists')


def run(args: Namespace) -> None:
    refuse_own_source(args.source, args.target)
    checkpoint = read_checkpoint(args.source)
    state = state_dict_of(checkpoint)
    check_source(state, args.source)
    layout, backbone, rest = convert(state, args.prefix)
    converted = TARGETS[args.to](backbone, rest)
    (key, state), = converted.items()
    meta = inference_meta(checkpoint)
    if args.to in FOLDED:
        meta.pop('mmlit', None)
    save_weights({**converted, 'meta': meta}, args.target, args.overwrite)
    print(f'{args.target}: {len(state)} weights under {key!r}, from the {layout} layout to '
          f'{args.to}')
