"""Write a LITv2 as ONNX: a classifier, a backbone, or a detector up to the outputs of its head.

python tools/export_onnx.py MODEL OUT.onnx --checkpoint FILE [--part classifier|backbone|head]
                            [--dtype float32|float16|int8] [--calibrate FOLDER]

MODEL is a config (openmixup, mmpretrain, mmdet or mmseg) or litv2_small,
litv2_medium, litv2_base, litv2_tiny. Batch, height and width stay open. Afterwards the file's
outputs are compared with PyTorch's.
"""
import argparse
import tempfile
from pathlib import Path

import torch
from prepare_images import open_image, prepare

from mmlit.command_line import clean_errors, positive
from mmlit.deployment import PARTS, Part, export_onnx, load_part, open_onnx, quantize_onnx
from mmlit.errors import ArgumentError
from mmlit.outputs import add_overwrite, check_writable

SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff'}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='config, or litv2_small and the like')
    parser.add_argument('out', type=Path, help='.onnx file')
    parser.add_argument('--checkpoint', help='path, URL, or a name such as in1k; none: random')
    parser.add_argument('--part', choices=PARTS, help='default: the classifier, or the backbone')
    parser.add_argument('--num-classes', type=positive, help='of a model by name; default: 1000')
    parser.add_argument('--dtype', choices=['float32', 'float16', 'int8'], default='float32')
    parser.add_argument('--calibrate', type=Path, metavar='FOLDER',
                        help='images to calibrate int8 with, looked for in all folders below')
    parser.add_argument('--calibration-images', type=positive, default=128, metavar='N',
                        help='how many of them, spread over the folder')
    parser.add_argument('--opset', type=int, default=20)
    add_overwrite(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        if (args.dtype == 'int8') != (args.calibrate is not None):
            raise ArgumentError('--dtype int8 and --calibrate FOLDER need each other')
        check_writable(args.out, args.overwrite, '.onnx')
        files = calibration_files(args.calibrate, args.calibration_images) if args.calibrate else []
        part = load_part(args.model, args.checkpoint, args.part, args.num_classes)
        if args.checkpoint is None:
            print('no --checkpoint: the weights are random')
        if args.dtype == 'int8':
            export_int8(part, args.out, files, args.opset)
        else:
            export_onnx(part, args.out, args.dtype, args.opset)
        print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {args.dtype}, images -> '
              f'{", ".join(part.outputs)}\n{difference(part, args.out)}')


def export_int8(part: Part, path: Path, files: list[Path], opset: int) -> None:
    images = calibration_images(part, files)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / 'float32.onnx'
        export_onnx(part, whole, opset=opset)
        quantize_onnx(whole, path, images)


def calibration_files(folder: Path, count: int) -> list[Path]:
    """Images of a folder, evenly spread over its sorted files.

    Raises:
        ArgumentError: If there are none.
    """
    if not folder.is_dir():
        raise ArgumentError(f'--calibrate {folder}: there is no such folder')
    files = sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ArgumentError(f'{folder}: no images to calibrate with '
                            f'({", ".join(sorted(SUFFIXES))})')
    step = max(len(files) / count, 1)
    return [files[int(i * step)] for i in range(min(count, len(files)))]


def calibration_images(part: Part, files: list[Path]) -> list[torch.Tensor]:
    """Images (1, C, H, W), prepared for a model.

    Raises:
        ArgumentError: If one cannot be read, or they do not fit the model.
    """
    if part.preprocessing is None:
        raise ArgumentError('nothing says how images become the input of this model: use '
                            'mmlit.deployment.quantize_onnx in Python')
    images = []
    for path in files:
        try:
            pixels = prepare(open_image(path), part.preprocessing)
        except (OSError, ValueError) as e:
            raise ArgumentError(f'--calibrate: {path}: {e}') from None
        if len(pixels) != part.in_channels:
            raise ArgumentError(f'the model takes images of {part.in_channels} channels, and '
                                f'{path} has {len(pixels)} when it is prepared')
        images.append(torch.from_numpy(pixels)[None])
    return images


@torch.no_grad()
def difference(part: Part, path: Path) -> str:
    """How far the file's outputs are from PyTorch's, for two random images."""
    images = torch.randn(2, part.in_channels, 4 * part.min_size, 5 * part.min_size,
                         generator=torch.Generator().manual_seed(0))
    ours, theirs = part.module(images), open_onnx(path)(images)
    worst = max(((a - b).abs().max() / a.abs().max()).item()
                for a, b in zip(ours, theirs, strict=True))
    return (f'largest difference from PyTorch in float32, for random images of '
            f'{images.shape[2]}x{images.shape[3]}: {worst:.1e} of the largest output')


if __name__ == '__main__':
    main()
