"""Make a training's checkpoint fit to be published: what inference needs, the hash in the name.

python tools/publish_model.py work_dirs/CONFIG/epoch_300.pth litv2_s.pth

writes litv2_s-0a1b2c3d.pth, whose name ends with the first digits of its SHA-256: whoever downloads
it, with mmlit or torch.hub, gets this file or an error. The weights keep their names (to change
those, tools/convert_checkpoint.py), and the names and colours of the classes stay, which toolkits
ask for; optimizer, schedule, random states and the config go. SRC stays as it is.
"""
import argparse
from pathlib import Path

from mmlit.checkpoints import publish
from mmlit.command_line import clean_errors


def parse_args():
    parser = argparse.ArgumentParser(description='Strip a checkpoint and stamp it with its hash')
    parser.add_argument('source', help='checkpoint of a training')
    parser.add_argument('target', type=Path, help='.pth or .safetensors, without the hash')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace another file that has the stamped name')
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        path, weights = publish(args.source, args.target, args.overwrite)
    print(f'{path}: {weights} weights, {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
