"""The digits' LITv2 in other runtimes, and what it keeps there: what `make demo-onnx` runs.

python tools/demo_deployment.py [--checkpoint work_dirs/digits/epoch_12.pth] [--out FOLDER]

Writes ONNX files in float32, float16 and int8 (calibrated on training digits) and a package of
AOTInductor, and prints the accuracy of each on the held-out digits, its size, and its speed.
"""
import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from dataset_converters.digits import convert
from prepare_images import open_image, prepare
from torch import Tensor

from mmlit.benchmark.measuring import interleave, summarise
from mmlit.benchmark.reporting import table
from mmlit.command_line import clean_errors
from mmlit.commands.export import calibration_files, calibration_images
from mmlit.deployment import (
    Part,
    compile_package,
    export_onnx,
    export_program,
    load_part,
    open_onnx,
    quantize_onnx,
)

CONFIG = Path(__file__).parents[1] / 'configs/classification/digits/lit_v2_digits_sz64_bs64_ep12.py'
DATA = Path('data/digits')
BATCH = 60  # six of them are the held-out digits
CALIBRATION_IMAGES = 128


def parse_args():
    parser = argparse.ArgumentParser(description='Export the digits\' LITv2, and measure it')
    parser.add_argument('--checkpoint', default='work_dirs/digits/epoch_12.pth')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/digits'))
    return parser.parse_args()


@torch.no_grad()
def main():
    args = parse_args()
    with clean_errors():
        convert(DATA)
        part = load_part(str(CONFIG), args.checkpoint)
        files = export(part, args.out)
    images, labels = held_out(part)
    batches = images.split(BATCH)
    runs = {'PyTorch': lambda x: part.module(x)[0]}
    runs |= {name: opened(path) for name, path in files.items()}
    speed = summarise(interleave({name: lambda run=run: run(batches[0])
                                  for name, run in runs.items()}, torch.device('cpu')), 'PyTorch')
    expected = torch.cat([runs['PyTorch'](x) for x in batches]).argmax(1)
    rows = [['', 'top-1 %', 'as PyTorch %', 'MB', 'images/s', 'ratio']]
    for name, run in runs.items():
        found = torch.cat([run(x) for x in batches]).argmax(1)
        size = f'{files[name].stat().st_size / 1e6:.1f}' if name in files else '-'
        rows.append([name, f'{percent(found == labels):.2f}', f'{percent(found == expected):.2f}',
                     size, f'{BATCH / speed[name]["median"]:.0f}', f'{speed[name]["speedup"]:.2f}'])
    print(f'\n{len(images)} held-out digits, batches of {BATCH}, {torch.get_num_threads()} threads'
          f'\n\n{table(rows)}\n\nfiles: {", ".join(map(str, files.values()))}\n'
          f'try: python tools/demo_onnx.py {files["ONNX float32"]} {DATA}/val/7/IMAGE.png')


def export(part: Part, folder: Path) -> dict[str, Path]:
    files = {'ONNX float32': folder / 'digits.onnx', 'ONNX float16': folder / 'digits_fp16.onnx',
             'ONNX int8': folder / 'digits_int8.onnx', 'AOTInductor': folder / 'digits.pt2'}
    export_onnx(part, files['ONNX float32'])
    export_onnx(part, files['ONNX float16'], dtype='float16')
    quantize_onnx(files['ONNX float32'], files['ONNX int8'],
                  calibration_images(part, calibration_files(DATA / 'train', CALIBRATION_IMAGES)))
    compile_package(export_program(part), files['AOTInductor'])
    return files


def opened(path: Path) -> Callable[[Tensor], Tensor]:
    run = torch._inductor.aoti_load_package(str(path)) if path.suffix == '.pt2' else open_onnx(path)
    return lambda images: run(images)[0]


def held_out(part: Part) -> tuple[Tensor, Tensor]:
    """All held-out digits (N, 3, H, W), and their labels (N,)."""
    lines = [line.split() for line in (DATA / 'meta/val.txt').read_text().splitlines()]
    images = [torch.from_numpy(prepare(open_image(DATA / 'val' / name), part.preprocessing))
              for name, _ in lines]
    return torch.stack(images), torch.tensor([int(label) for _, label in lines])


def percent(right: Tensor) -> float:
    return 100 * right.float().mean().item()


if __name__ == '__main__':
    main()
