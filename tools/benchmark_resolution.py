"""Time and memory of dense LITv2 over the size of the image, and the exponents fitted to them.

python tools/benchmark_resolution.py [MODELS...] [--sides 224 320 448 640 1024] [--json FILE] ...

Runs tools/benchmark.py --dense for each side (see there for names of models) and fits
cost = constant * pixels ** exponent: all sides together, and each step from one side to the next.
An exponent of 1 is linear in the number of pixels; Lo-Fi's attention alone has 2.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mmlit import LITv2
from mmlit.analysis import flops_by_module
from mmlit.benchmark.reporting import curves, table, write_json
from mmlit.command_line import clean_errors, positive
from mmlit.models import HiLoAttention
from mmlit.outputs import add_overwrite, check_writable

BENCHMARK = Path(__file__).with_name('benchmark.py')


def parse_args():
    parser = argparse.ArgumentParser(description='Fit time and memory to the size of the image',
                                     epilog='Other options go to tools/benchmark.py.')
    parser.add_argument('models', nargs='*', default=['litv2_small'])
    parser.add_argument('--sides', type=positive, nargs='+', default=[224, 320, 448, 640, 1024])
    parser.add_argument('--json', type=Path, metavar='FILE')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='time over pixels')
    add_overwrite(parser)
    args, args.others = parser.parse_known_args()
    if len(args.sides) < 2:
        parser.error('--sides: an exponent needs two sides at least')
    return args


def main():
    args = parse_args()
    with clean_errors():
        for path in filter(None, (args.json, args.plot)):
            check_writable(path, args.overwrite)
        measure(args)


def measure(args) -> None:
    results = {side: benchmark(args, side) for side in args.sides}
    models = list(results[args.sides[0]])
    rows = [['model', 'side', 'ms', 'exponent', 'MiB', 'exponent', 'Lo-Fi, Hi-Fi products']]
    fits = {}
    for name in models:
        pixels = np.array(args.sides) ** 2
        time = np.array([results[side][name]['median'] for side in args.sides])
        memory = np.array([results[side][name]['memory'] for side in args.sides])
        steps = zip(local_exponents(pixels, time), local_exponents(pixels, memory), strict=True)
        for side, t, m, (of_time, of_memory) in zip(args.sides, time, memory, steps, strict=True):
            rows.append([name, str(side), f'{t * 1e3:.1f}', of_time, f'{m / 2**20:.0f}', of_memory,
                         attention_share(name, side)])
        fits[name] = dict(time=fit(pixels, time), memory=fit(pixels, memory))
        rows.append([name, 'all', '', f'{fits[name]["time"]:.2f}', '',
                     f'{fits[name]["memory"]:.2f}', ''])
    print(table(rows))
    if args.json:
        write_json(args.json, dict(sides=args.sides, results=results, exponents=fits))
    if args.plot:
        curves(args.plot, {name: [(side**2, results[side][name]['median'] * 1e3)
                                  for side in args.sides] for name in models}, 'pixels', 'ms')


def benchmark(args, side: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'result.json'
        command = [sys.executable, '-W', 'ignore', BENCHMARK, *args.models, '--dense', '--shape',
                   side, side, '--json', out, '--batch', 1, *args.others]
        done = subprocess.run([str(c) for c in command])
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(out.read_text())['results']


def fit(pixels: np.ndarray, cost: np.ndarray) -> float:
    """Exponent of the power law that fits best, on logarithmic axes."""
    return float(np.polyfit(np.log(pixels), np.log(cost), 1)[0])


def local_exponents(pixels: np.ndarray, cost: np.ndarray) -> list[str]:
    steps = np.diff(np.log(cost)) / np.diff(np.log(pixels))
    return ['-', *(f'{step:.2f}' for step in steps)]


def attention_share(name: str, side: int) -> str:
    """Share of a LITv2's multiply-adds that are products of queries, keys and values."""
    arch = name.split(':')[0]
    if not arch.startswith('litv2_'):
        return '-'
    model = LITv2(arch.removeprefix('litv2_'), out_indices=(0, 1, 2, 3))
    macs = flops_by_module(model, (3, side, side))
    products = 0
    for layer, module in model.named_modules():
        if isinstance(module, HiLoAttention):
            linears = [k for k in macs if k.startswith(f'{layer}.')]
            products += macs[layer] - sum(macs[k] for k in linears)
    return f'{products / macs[""]:.1%}'


if __name__ == '__main__':
    main()
