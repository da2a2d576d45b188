"""Make a training's checkpoint fit to be published: weights alone, the hash in the name.

python tools/publish_model.py work_dirs/CONFIG/epoch_300.pth litv2_s.pth

writes litv2_s-0a1b2c3d.pth, whose name ends with the first digits of its SHA-256: whoever loads it,
with mmlit or torch.hub, gets this file or an error. The weights keep their names (to change those,
tools/convert_checkpoint.py). Class names, palettes and the settings of LITv2 stay; optimizer,
schedule, random states and the config go.
"""
import argparse
import hashlib
from pathlib import Path

from mmlit.checkpoints import (
    check_finite,
    kept_meta,
    read_checkpoint,
    refuse_existing,
    refuse_same_file,
    replace_when_whole,
    save_weights,
    state_dict_of,
    temporary_name,
)
from mmlit.command_line import clean_errors


def parse_args():
    parser = argparse.ArgumentParser(description='Strip a checkpoint and stamp it with its hash')
    parser.add_argument('source', help='checkpoint of a training')
    parser.add_argument('target', type=Path, help='.pth or .safetensors, without the hash')
    parser.add_argument('--overwrite', action='store_true', help='replace a file of that name')
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        final, count = publish(args.source, args.target, args.overwrite)
    print(f'{final}: {count} weights, {final.stat().st_size / 1e6:.1f} MB')


def publish(source: str, target: Path, overwrite: bool) -> tuple[Path, int]:
    """Write the stripped checkpoint; return its path and the number of weights in it."""
    checkpoint = read_checkpoint(source)
    state, meta = state_dict_of(checkpoint), kept_meta(checkpoint)
    check_finite(state, source)
    partial = temporary_name(target)  # the name depends on the content
    try:
        save_weights(dict(state_dict=state, **(dict(meta=meta) if meta else {})), partial)
        stamp = hashlib.sha256(partial.read_bytes()).hexdigest()[:8]
        final = target.with_name(f'{target.stem}-{stamp}{target.suffix}')
        refuse_existing(final, overwrite)
        refuse_same_file(source, final)
        replace_when_whole(partial, final)
    finally:
        partial.unlink(missing_ok=True)
    return final, len(state)


if __name__ == '__main__':
    main()
