"""Parameters and multiply-adds of a config's model, module by module."""
from argparse import ArgumentParser, Namespace

from mmlit.analysis.configs import flops_of_config
from mmlit.benchmark.reporting import table
from mmlit.command_line import add_config, positive


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('--shape', type=positive, nargs=2, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--depth', type=int, default=3, help='levels of modules to list')


def run(args: Namespace) -> None:
    counts, model = flops_of_config(args.config, tuple(args.shape))
    rows = [['module', 'params M', 'MACs G', 'share']]
    for name, module in model.named_modules():
        params = sum(p.numel() for p in module.parameters())
        if name.count('.') < args.depth and (params or counts[name]):
            rows.append([name or 'all', f'{params / 1e6:.3f}', f'{counts[name] / 1e9:.3f}',
                         f'{counts[name] / max(counts[""], 1):.1%}'])
    print(f'{args.config}, one image of {args.shape[0]}x{args.shape[1]}\n\n{table(rows)}\n\n'
          'Counted: matrix products, convolutions (deformable ones and their offsets too) and the '
          "products of attention.\nA module counts what is in it. A detector's second stage runs "
          'for 1,000 boxes and 100 masks.')
