"""One attention layer against others, as the paper's section 3: HiLo, MHSA, SRA, windows, ...

python tools/benchmark_attention.py [--sizes 14 14 28 28 ...] [--csv FILE] [--plot FILE]

Modules other than HiLo are timm's. Each maps the same tokens (B, H x W, C).
"""
import argparse
import csv
import sys
from pathlib import Path

import torch

from mmlit.analysis import count_flops
from mmlit.benchmark.attention import LAYERS
from mmlit.benchmark.measuring import interleave, memory_in_a_process, peak_memory, summarise
from mmlit.benchmark.reporting import curves, environment, table
from mmlit.checkpoints import written_whole
from mmlit.command_line import clean_errors, device, positive
from mmlit.outputs import add_overwrite, check_writable

SIZES = [14, 14, 20, 32, 28, 28, 40, 64, 56, 56, 80, 128]
HEAD = ['layer', 'tokens', 'params M', 'MACs M', 'images/s', 'p50 ms', 'ratio', 'spread', 'MiB']


def parse_args():
    parser = argparse.ArgumentParser(description='Compare attention layers')
    parser.add_argument('--layers', nargs='+', choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument('--sizes', type=positive, nargs='+', default=SIZES, metavar='H W',
                        help='heights and widths, in tokens, in turn')
    parser.add_argument('--dim', type=positive, default=768)
    parser.add_argument('--heads', type=positive, default=12)
    parser.add_argument('--batch', type=positive, default=64)
    parser.add_argument('--device', type=device,
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--rounds', type=positive, default=5)
    parser.add_argument('--seconds', type=float, default=0.5, help='length of a turn in a round')
    parser.add_argument('--csv', type=Path, metavar='FILE')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='time over tokens')
    add_overwrite(parser)
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)  # for the processes it starts
    args = parser.parse_args()
    if len(args.sizes) % 2:
        parser.error('--sizes takes pairs of heights and widths')
    return args


def main():
    args = parse_args()
    sizes = list(zip(args.sizes[::2], args.sizes[1::2], strict=True))
    with clean_errors():
        if args.memory_of:
            print(memory(args, args.memory_of, sizes[0]))
            return
        for path in filter(None, (args.csv, args.plot)):
            check_writable(path, args.overwrite)
        report(args, [row for size in sizes for row in compare(args, size)])


def report(args, rows: list[list[str]]) -> None:
    facts = environment(args.device)
    print(f'batch {args.batch}, {args.dim} channels, {args.heads} heads, {args.dtype}, '
          f'{facts["device"]}, {facts["threads"]} threads, torch {facts["torch"]}, load average '
          f'{facts["load_average"][0]}; ratios to {args.layers[0]}\n')
    print(table([HEAD, *rows]))
    if args.csv:
        with written_whole(args.csv) as partial, partial.open('w', newline='') as f:
            csv.writer(f).writerows([HEAD, *rows])
    if args.plot:
        lines = {}
        for name, tokens, _, _, _, p50, *_ in rows:
            h, w = map(int, tokens.split('x'))
            lines.setdefault(name, []).append((h * w, float(p50)))
        curves(args.plot, lines, 'tokens', 'ms')


@torch.no_grad()
def compare(args, size: tuple[int, int]) -> list[list[str]]:
    x = tokens(args, size)
    layers = {name: build(args, name, size) for name in args.layers}
    times = interleave({name: lambda layer=layer: layer(x) for name, layer in layers.items()},
                       x.device, args.rounds, args.seconds)
    again, rows = [*sys.argv, '--sizes', *map(str, size)], []
    for name, result in summarise(times, args.layers[0]).items():
        params = sum(p.numel() for p in layers[name].parameters())
        macs = count_flops(layers[name].float(), (*size, args.dim))
        rows.append([
            name, f'{size[0]}x{size[1]}', f'{params / 1e6:.2f}', f'{macs / 1e6:.1f}',
            f'{args.batch / result["median"]:.1f}', f'{result["p50"] * 1e3:.2f}',
            f'{result["speedup"]:.2f}',
            f'{result["speedup_low"]:.2f}-{result["speedup_high"]:.2f}',
            f'{memory_in_a_process(again, name) / 2**20:.0f}'])
    return rows


@torch.no_grad()
def memory(args, name: str, size: tuple[int, int]) -> int:
    x, layer = tokens(args, size), build(args, name, size)
    weights = sum(t.nbytes for t in layer.state_dict().values())
    return peak_memory(lambda: layer(x), x.device, weights)


def tokens(args, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(args.batch, *size, args.dim, device=args.device,
                       dtype=getattr(torch, args.dtype))


def build(args, name: str, size: tuple[int, int]) -> torch.nn.Module:
    layer = LAYERS[name](args.dim, args.heads, size)
    return layer.to(args.device, getattr(torch, args.dtype)).eval()


if __name__ == '__main__':
    main()
