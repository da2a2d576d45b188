"""List LITv2's variants, published weights, and the configs that come with mmlit."""
from argparse import ArgumentParser, Namespace

import torch

from mmlit import LITv2Classifier, list_pretrained
from mmlit.analysis import count_flops
from mmlit.benchmark.reporting import table
from mmlit.package_files import config_names


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument('--configs', action='store_true',
                        help='list the names of configs instead, which other commands take')


def run(args: Namespace) -> None:
    if args.configs:
        print('\n'.join(config_names()))
        return
    rows = [['model', 'params M', 'MACs G at 224x224', 'depths', 'channels']]
    for arch in ('tiny', 'small', 'medium', 'base'):
        with torch.device('meta'):  # shapes without weights
            model = LITv2Classifier(arch)
        params = sum(p.numel() for p in model.parameters())
        rows.append([f'litv2_{arch}', f'{params / 1e6:.1f}',
                     f'{count_flops(model, (3, 224, 224)) / 1e9:.2f}',
                     *(' '.join(map(str, sizes)) for sizes in (model.backbone.depths,
                                                               model.backbone.embed_dims))])
    print(f'{table(rows)}\n\nPublished weights, for pretrained=, --checkpoint and init_cfg:\n')
    list_pretrained()
