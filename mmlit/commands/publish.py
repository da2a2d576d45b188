"""Make a training's checkpoint fit to be published: what inference needs, the hash in the name.

    mmlit publish work_dirs/CONFIG/epoch_300.pth litv2_s.pth

writes litv2_s-0a1b2c3d.pth, whose name ends with the first digits of its SHA-256: whoever downloads
it, with mmlit or torch.hub, gets this file or an error. The weights keep their names (to change
those, mmlit convert), and the names and colours of the classes stay, which toolkits ask for;
optimizer, schedule, random states and the config go. The source stays as it is.
"""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmlit.checkpoints import publish


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('source', help='checkpoint of a training')
    parser.add_argument('target', type=Path, help='.pth or .safetensors, without the hash')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace another file that has the stamped name')


def run(args: Namespace) -> None:
    path, weights = publish(args.source, args.target, args.overwrite)
    print(f'{path}: {weights} weights, {path.stat().st_size / 1e6:.1f} MB')
