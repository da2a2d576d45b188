"""Data sets and loaders of the openmixup training."""
import random
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmcv.parallel import collate
from mmcv.runner import get_dist_info
from openmixup.datasets import build_dataset as build_openmixup_dataset
from openmixup.datasets.loader import RepeatAugSampler
from openmixup.datasets.loader.build_loader import PrefetchLoader
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mmlit.errors import ConfigError, DatasetError

HOW_TO_GET = {
    'ImageNet': 'Get ILSVRC 2012 from https://image-net.org, unpack it to '
                'data/ImageNet/{train,val}, and write list files of lines "PATH LABEL", as '
                "openmixup's documentation shows.",
}


def build_dataset(cfg: dict, split: str) -> Dataset:
    """Build one split of a data set, after checking that it is there.

    Raises:
        DatasetError: If its files are missing or its list cannot be read; later, while training,
            if an image cannot be read. The message names the file.
    """
    source = cfg.get('data_source', {})
    if 'list_file' in source:
        _check_list(source, split)
    dataset = build_openmixup_dataset(cfg)
    if hasattr(dataset.data_source, 'fns'):
        dataset.data_source = NamedImages(dataset.data_source)
    return dataset


def _check_list(source: dict, split: str) -> None:
    list_file, root = Path(source['list_file']), Path(source.get('root') or '.')
    hint = HOW_TO_GET.get(source['type'], 'Prepare it, or correct the paths.')
    for key, path, there in [('list_file', list_file, list_file.is_file()),
                             ('root', root, root.is_dir())]:
        if not there:
            raise DatasetError(
                f'the data set is not there: data.{split}.data_source.{key} is {path}, looked for '
                f'at {path.absolute()}. {hint}')
    separator = source.get('splitor', ' ')
    with open(list_file) as f:
        lines = [line.strip() for line in f]
    if not lines:
        raise DatasetError(f'the list file {list_file.absolute()} is empty')
    labelled = len(lines[0].split(separator)) == 2
    for number, line in enumerate(lines, start=1):
        parts = line.split(separator)
        if labelled and not (len(parts) == 2 and parts[1].isdigit()):
            raise DatasetError(f'{list_file.absolute()}, line {number}: expected '
                               f'"PATH{separator}LABEL", got {line!r}')


class NamedImages:
    """A data source that says which image it could not read.

    Args:
        source: openmixup's data source, with its file names in ``fns``.
    """

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name: str):
        if name.startswith('__') or name == '_source':
            raise AttributeError(name)
        return getattr(self._source, name)

    def get_sample(self, idx: int):
        try:
            return self._source.get_sample(idx)
        # Pillow raises OSError or SyntaxError (a broken PNG), openmixup ValueError.
        except (OSError, SyntaxError, ValueError) as e:
            raise DatasetError(f'cannot read the image {self._source.fns[idx]}: {e}. Replace it, '
                               'or take its line out of the list file.') from None


def build_train_loader(cfg, dataset: Dataset, seed: int):
    """Loader of a training: ``imgs_per_gpu`` images per process and step.

    Process r of n takes every n-th image from the r-th on, so the batches of n processes together
    are those of one process with an n-fold batch. (openmixup's sampler gives each process a block
    of its own.)
    """
    rank, _ = get_dist_info()
    data = cfg.data
    if data.get('sampling_replace', False):
        raise ConfigError('data.sampling_replace=True is not supported: images are drawn without '
                          'replacement')
    kind = cfg.get('sampler', 'DistributedSampler')
    if kind == 'DistributedSampler':
        sampler = DistributedSampler(dataset, shuffle=True, seed=seed)
    elif kind == 'RepeatAugSampler':
        sampler = RepeatAugSampler(dataset, shuffle=True, rank=rank)
    else:
        raise ConfigError(f'sampler={kind!r}: expected DistributedSampler or RepeatAugSampler')
    workers = data.workers_per_gpu
    loader = DataLoader(
        dataset,
        batch_size=data.imgs_per_gpu,
        sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, samples_per_gpu=data.imgs_per_gpu),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_seed_worker,
        drop_last=data.get('drop_last', False),
        persistent_workers=workers > 0 and cfg.get('persistent_workers', False))
    if len(loader) == 0:
        raise ConfigError(f'the training set has {len(dataset)} images and no batch of '
                          f'{data.imgs_per_gpu}: lower data.imgs_per_gpu, or set '
                          'data.drop_last=False')
    if data.train.get('prefetch', False):
        return PrefetchLoader(loader, cfg.img_norm_cfg['mean'], cfg.img_norm_cfg['std'])
    return loader


def _seed_worker(worker_id: int) -> None:
    """Seed NumPy and random, which the pipelines draw from, like torch: anew in each epoch."""
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)
