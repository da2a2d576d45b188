"""mmcv's operators as mmlit supplies them, timed beside the compiled ones of the same mmcv.

python tools/benchmark_mmcv_ops.py [--threads 1] [--only WORD] [--no-detectors] [--cpu-time] ...

The forms take turns. A ratio is mmlit's least time over that of the compiled operators: below 1
mmlit is faster. Without a compiled mmcv, mmlit's times stand alone.
"""
import argparse
import time
from pathlib import Path

import torch

from mmlit.benchmark.measuring import interleave
from mmlit.benchmark.mmcv_ops import (
    DETECTORS,
    IMAGE,
    detector_cases,
    forms,
    operator_cases,
)
from mmlit.benchmark.reporting import environment, write_json
from mmlit.command_line import clean_errors, positive
from mmlit.mmcv_ops import is_compiled
from mmlit.mmcv_ops.extension import how_to_compile
from mmlit.outputs import add_overwrite, check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=positive, help="default: torch's choice")
    parser.add_argument('--only', default='', help='cases whose names hold this word')
    parser.add_argument('--no-detectors', action='store_true', help='operators only')
    parser.add_argument('--detectors', nargs='*', default=DETECTORS, metavar='CONFIG')
    parser.add_argument('--scale', type=float, default=1., help='of the image of 800 x 1333')
    parser.add_argument('--rounds', type=positive, default=5)
    parser.add_argument('--seconds', type=float, default=0.2, help='length of a turn in a round')
    parser.add_argument('--cpu-time', action='store_true',
                        help='processor seconds of all threads, for a machine that is not idle')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures there')
    add_overwrite(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        if args.json:
            check_writable(args.json, args.overwrite)
        compare(args)


def compare(args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = environment('cpu')
    print(f'{machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}, load '
          f'average {machine["load_average"][0]}')
    if not is_compiled():
        print(f'This mmcv has no compiled operators to compare with. To get one: '
              f'{how_to_compile()}')
    cases = operator_cases(args.scale)
    shape = tuple(int(n * args.scale) for n in IMAGE)
    for config in [] if args.no_detectors else args.detectors:
        cases |= detector_cases(config, shape)
    cases = {name: run for name, run in cases.items() if args.only in name}
    clock = time.process_time if args.cpu_time else time.perf_counter
    width, results = max(map(len, cases), default=0), {}
    print(f'\n| {"":{width}} | mmlit ms | mmcv ms | ratio |\n|-{"-" * width}-|---------:|--------:|'
          '------:|')
    for name, run in cases.items():
        times = interleave(forms(run), torch.device('cpu'), args.rounds, args.seconds, clock)
        best = {form: min(map(min, rounds)) for form, rounds in times.items()}
        results[name] = best
        ours, theirs = best['mmlit'], best.get('mmcv')
        compared = f'{theirs * 1e3:7.1f} | {ours / theirs:5.2f}' if theirs else '      - |     -'
        print(f'| {name:{width}} | {ours * 1e3:8.1f} | {compared} |', flush=True)
    if args.json:
        write_json(args.json, dict(machine=machine, cpu_time=args.cpu_time, seconds=results))


if __name__ == '__main__':
    main()
