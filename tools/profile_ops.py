"""Share of the time that each kind of op takes in a model, eager, on the CPU or a GPU.

python tools/profile_ops.py [litv2_small] [--batch 16] [--dtype bfloat16] [--dense --shape 800 1280]

The names of models are those of tools/benchmark.py (torch.compile'd ones show nothing of use).
"""
import argparse

import torch

from mmlit.benchmark.candidates import Setting, build, prepare
from mmlit.benchmark.profiling import shares
from mmlit.benchmark.reporting import environment, table
from mmlit.command_line import clean_errors, device, positive


def parse_args():
    parser = argparse.ArgumentParser(description='Where the time of a model goes')
    parser.add_argument('models', nargs='*', default=['litv2_small'])
    parser.add_argument('--device', type=device,
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--batch', type=positive, default=16)
    parser.add_argument('--shape', type=positive, nargs=2, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--dense', action='store_true', help='maps of four stages, not logits')
    parser.add_argument('--calls', type=positive, default=5)
    return parser.parse_args()


def main():
    args = parse_args()
    setting = Setting(args.device, args.dtype, batch=args.batch, shape=tuple(args.shape),
                      dense=args.dense)
    results = {}
    with clean_errors():
        for name in args.models:
            results[name] = shares(prepare(name, build(name, setting), setting), args.calls)
    facts = environment(args.device)
    print(f'batch {setting.batch}, {setting.shape[0]}x{setting.shape[1]}, {setting.dtype}, '
          f'{facts["device"]}, {facts["threads"]} threads, torch {facts["torch"]}, load average '
          f'{facts["load_average"][0]}\n')
    kinds = list(dict.fromkeys(kind for result in results.values() for kind in result))
    print(table([['kind of op', *results],
                 *([kind, *(f'{result.get(kind, 0):.1%}' for result in results.values())]
                   for kind in kinds)]))


if __name__ == '__main__':
    main()
