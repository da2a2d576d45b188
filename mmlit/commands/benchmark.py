"""Speed, memory and FLOPs of LITv2's forms and of timm's models, side by side.

A model is litv2_small, litv2_medium, litv2_base or a name of timm, with the forms it takes:
litv2_small:official (the release's dataflow), :reference (the plain form of every op), :fused
(after fuse()), :triton (its kernels on CUDA), :compiled (torch.compile), :checkpointed
(with_cp=True, in training), :onnx (by onnxruntime, on a CPU), or several of them:
litv2_small:fused:compiled.
"""
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

import torch

from mmlit.analysis import count_flops
from mmlit.benchmark.candidates import PEERS, Setting, build, prepare
from mmlit.benchmark.measuring import (
    interleave,
    machine_rates,
    memory_in_a_process,
    peak_memory,
    summarise,
)
from mmlit.benchmark.official_style import mmcv_deform_conv2d
from mmlit.benchmark.reporting import environment, scatter, table, write_json
from mmlit.command_line import device, positive
from mmlit.errors import ArgumentError
from mmlit.outputs import add_overwrite, check_writable


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('models', nargs='*', help='default: all forms of --arch, and its peers')
    parser.add_argument('--arch', choices=list(PEERS), default='litv2_small')
    parser.add_argument('--baseline', help='what ratios are to; default: the first model')
    parser.add_argument('--device', type=device,
                        default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--amp', action='store_true', help='--dtype is autocast\'s')
    parser.add_argument('--batch', type=positive, default=16)
    parser.add_argument('--shape', type=positive, nargs=2, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--dense', action='store_true', help='maps of four stages, not logits')
    parser.add_argument('--train', action='store_true', help='training steps, not inference')
    parser.add_argument('--window', type=int, default=2, help='window of LITv2\'s stage 3')
    parser.add_argument('--rounds', type=positive, default=7)
    parser.add_argument('--seconds', type=float, default=1., help='length of a turn in a round')
    parser.add_argument('--no-memory', action='store_true', help='do not measure memory')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures there')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw throughput over FLOPs')
    add_overwrite(parser)
    parser.add_argument('--memory-of', help=SUPPRESS)  # for the processes it starts


def run(args: Namespace) -> None:
    setting = Setting(args.device, args.dtype, args.amp, args.batch, tuple(args.shape), args.dense,
                      args.train, args.window)
    if args.memory_of:
        print(memory(args.memory_of, setting))
        return
    for path in filter(None, (args.json, args.plot)):
        check_writable(path, args.overwrite)
    compare(args, setting)


def compare(args: Namespace, setting: Setting) -> None:
    forms = [':official', ':reference', '', ':compiled']
    forms += [] if args.train else [':fused', ':fused:compiled']
    names = args.models or [args.arch + form for form in forms] + PEERS[args.arch]
    facts, runs = {}, {}
    for name in names:
        try:
            model = build(name, setting)
        except ArgumentError as e:
            if args.models:
                raise
            print(f'left out: {e}')
            continue
        facts[name] = dict(params=sum(p.numel() for p in model.parameters()),
                           macs=count_flops(model, (3, *setting.shape)))
        runs[name] = prepare(name, model, setting)
    baseline = args.baseline or next(iter(runs))
    if baseline not in runs:
        raise ArgumentError(f'--baseline {baseline}: expected one of {list(runs)}')
    before = environment(args.device)
    rates = machine_rates(torch.device(args.device), setting.torch_dtype)
    results = summarise(interleave(runs, torch.device(args.device), args.rounds, args.seconds),
                        baseline)
    for name, result in results.items():
        result.update(facts[name], images_per_second=setting.batch / result['median'])
        if not args.no_memory:
            result['memory'] = memory_in_a_process(
                ['-m', 'mmlit', 'benchmark', *args.words], name)

    merging = "mmcv's compiled op" if mmcv_deform_conv2d else "mmlit's (mmcv has no ops here)"
    print(f'\n{"training step" if setting.train else "inference"}, batch {setting.batch}, '
          f'{setting.shape[0]}x{setting.shape[1]}, {setting.dtype}'
          f'{" (autocast)" if setting.autocast else ""}, {before["device"]}, '
          f'{before["threads"]} threads, torch {before["torch"]}, load average '
          f'{before["load_average"][0]}\ndeformable convolution of official-style models: '
          f'{merging}\nlarge matrix product {rates["operations"] / 1e9:.0f} GFLOP/s, copy '
          f'{rates["bytes"] / 1e9:.1f} GB/s\n')
    print(table([HEAD, *(row(name, result) for name, result in results.items())]))
    if args.json:
        write_json(args.json, dict(command=args.words, setting=asdict(setting), baseline=baseline,
                                   official_deform_conv=merging, rates=rates, before=before,
                                   after=environment(args.device), results=results))
    if args.plot:
        scatter(args.plot, {name: (r['macs'] / 1e9, r['images_per_second'])
                            for name, r in results.items()},
                'multiply-adds of an image, G', 'images/s', f'{before["device"]}, {setting.dtype}, '
                f'batch {setting.batch}')


HEAD = ['model', 'params M', 'MACs G', 'images/s', 'p50 ms', 'p95 ms', 'ratio', 'spread', 'MiB']


def row(name: str, result: dict) -> list[str]:
    speed = result['images_per_second']
    return [name, f'{result["params"] / 1e6:.1f}', f'{result["macs"] / 1e9:.2f}',
            f'{speed:.1f}' if speed >= 10 else f'{speed:.3f}', f'{result["p50"] * 1e3:.1f}',
            f'{result["p95"] * 1e3:.1f}', f'{result["speedup"]:.2f}',
            f'{result["speedup_low"]:.2f}-{result["speedup_high"]:.2f}',
            f'{result["memory"] / 2**20:.0f}' if 'memory' in result else '-']


def memory(name: str, setting: Setting) -> int:
    model = build(name, setting)
    weights = sum(t.nbytes for t in model.state_dict().values())
    run = prepare(name, model, setting)
    return peak_memory(run, torch.device(setting.device), weights)
