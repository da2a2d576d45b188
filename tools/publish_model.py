"""Make a training's checkpoint fit to be published: weights alone, the hash in the name.

python tools/publish_model.py work_dirs/CONFIG/epoch_300.pth litv2_s.pth

writes litv2_s-0a1b2c3d.pth, whose name ends with the first digits of its SHA-256: whoever downloads
it, with mmlit or torch.hub, gets this file or an error. The weights keep their names (to change
those, tools/convert_checkpoint.py); optimizer, schedule, random states and the config go.
"""
import argparse
import hashlib
from pathlib import Path

from mmlit.checkpoints import read_checkpoint, save_weights, state_dict_of
from mmlit.command_line import clean_errors


def parse_args():
    parser = argparse.ArgumentParser(description='Strip a checkpoint and stamp it with its hash')
    parser.add_argument('source', help='checkpoint of a training')
    parser.add_argument('target', type=Path, help='.pth or .safetensors, without the hash')
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        state = state_dict_of(read_checkpoint(args.source, allowed_types()))
        save_weights(dict(state_dict=state), args.target)
    stamp = hashlib.sha256(args.target.read_bytes()).hexdigest()[:8]
    final = args.target.with_name(f'{args.target.stem}-{stamp}{args.target.suffix}')
    args.target.rename(final)
    print(f'{final}: {len(state)} weights, {final.stat().st_size / 1e6:.1f} MB')


def allowed_types() -> list:
    """What mmengine's checkpoints hold beside weights, where mmengine's Runner is there."""
    try:
        from mmlit.openmmlab.runner import MMENGINE_TYPES
    except ImportError:
        return []
    return MMENGINE_TYPES


if __name__ == '__main__':
    main()
