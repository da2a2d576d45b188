"""Write a LITv2 for other runtimes: a classifier, a backbone, or a detector up to its head.

The model is a config's (openmixup, mmpretrain, mmdet or mmseg), or litv2_small, litv2_medium,
litv2_base, litv2_tiny. Batch, height and width stay open. What --to writes:

  onnx     an .onnx file, whose outputs are then compared with PyTorch's
  program  a graph for torch.export.load, which any device runs or compiles (.pt2)
  package  compiled code for this machine's kind of CPU (AOTInductor), for
           torch._inductor.aoti_load_package, or for C++; needs a C++ compiler (.pt2)
"""
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from mmlit.command_line import config, positive
from mmlit.deployment import (
    PARTS,
    Part,
    compile_package,
    export_onnx,
    export_program,
    load_part,
    open_onnx,
    quantize_onnx,
    save_program,
)
from mmlit.errors import ArgumentError
from mmlit.outputs import add_overwrite, check_writable
from mmlit.package_files import load_tool

SUFFIXES = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff'}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('model', type=config, help='config, or litv2_small and the like')
    parser.add_argument('out', type=Path, help='.onnx or .pt2 file')
    parser.add_argument('--to', choices=['onnx', 'program', 'package'],
                        help='default: onnx, for an .onnx file')
    parser.add_argument('--checkpoint', help='path, URL, or a name such as in1k; none: random')
    parser.add_argument('--part', choices=PARTS, help='default: the classifier, or the backbone')
    parser.add_argument('--num-classes', type=positive, help='of a model by name; default: 1000')
    add_overwrite(parser)
    onnx = parser.add_argument_group('ONNX only')
    onnx.add_argument('--dtype', choices=['float32', 'float16', 'int8'], help='default: float32')
    onnx.add_argument('--calibrate', type=Path, metavar='FOLDER',
                      help='images to calibrate int8 with, looked for in all folders below')
    onnx.add_argument('--calibration-images', type=positive, metavar='N',
                      help='how many of them, spread over the folder; default: 128')
    onnx.add_argument('--opset', type=int, help='default: 20')
    others = parser.add_argument_group('programs and packages only')
    others.add_argument('--shape', type=positive, nargs=3, metavar=('B', 'H', 'W'),
                        help='fixes the size, for faster code; default: all sizes')


def run(args: Namespace) -> None:
    if args.to is None and args.out.suffix == '.pt2':
        raise ArgumentError(f'{args.out}: --to program or --to package?')
    to_onnx = args.to in (None, 'onnx')
    foreign = ['shape'] if to_onnx else ['dtype', 'calibrate', 'calibration_images', 'opset']
    for name in foreign:
        if getattr(args, name) is not None:
            raise ArgumentError(f'--{name.replace("_", "-")} has no meaning with '
                                f'--to {args.to or "onnx"}')
    if (args.dtype == 'int8') != (args.calibrate is not None):
        raise ArgumentError('--dtype int8 and --calibrate FOLDER need each other')
    check_writable(args.out, args.overwrite, '.onnx' if to_onnx else '.pt2')
    files = []
    if args.calibrate:
        files = calibration_files(args.calibrate, args.calibration_images or 128)
    part = load_part(args.model, args.checkpoint, args.part, args.num_classes)
    if args.checkpoint is None:
        print('no --checkpoint: the weights are random')
    if to_onnx:
        _to_onnx(part, args, files)
    else:
        program = export_program(part, args.shape and tuple(args.shape))
        (save_program if args.to == 'program' else compile_package)(program, args.out)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, '
          f'{args.dtype or "float32" if to_onnx else args.to}, images -> {", ".join(part.outputs)}')
    if to_onnx:
        print(difference(part, args.out))


def _to_onnx(part: Part, args: Namespace, files: list[Path]) -> None:
    dtype, opset = args.dtype or 'float32', args.opset or 20
    if dtype != 'int8':
        export_onnx(part, args.out, dtype, opset)
        return
    images = calibration_images(part, files)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / 'float32.onnx'
        export_onnx(part, whole, opset=opset)
        quantize_onnx(whole, args.out, images)


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
    images, tool = [], load_tool('prepare_images')
    for path in files:
        try:
            pixels = tool.prepare(tool.open_image(path), part.preprocessing)
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
