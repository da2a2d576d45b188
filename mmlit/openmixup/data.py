"""Data sets and loaders of the openmixup training."""
import copy
import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from mmcv.parallel import collate
from mmcv.runner import get_dist_info
from openmixup.datasets import ClassificationDataset
from openmixup.datasets import build_dataset as build_openmixup_dataset
from openmixup.datasets.loader import RepeatAugSampler
from openmixup.datasets.loader.build_loader import PrefetchLoader
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mmlit.errors import ConfigError, DatasetError

from .sources import SOURCES, prepare_source

HOW_TO_GET = {
    'ImageNet': 'Get ILSVRC 2012 from https://image-net.org, unpack it to '
                'data/ImageNet/{train,val}, and write list files of lines "PATH LABEL", as '
                "openmixup's documentation shows, or put the images into folders of classes.",
}


def build_dataset(cfg: dict, split: str, train: dict | None = None) -> Dataset:
    """Build one split of a data set, after checking that it is there.

    Args:
        cfg: Its config.
        split: Its name, for messages.
        train: Config of the training's, for other splits: its folders, if it has no list, name the
            classes.

    Raises:
        DatasetError: If its files are missing or its list cannot be read; later, while training,
            if an image cannot be read. The message names the file.
        ConfigError: If it cannot be built from its config.
    """
    cfg = copy.deepcopy(cfg)
    reference = next(_image_sources(train), None) if train is not None else None
    for source in _image_sources(cfg):
        hint = HOW_TO_GET.get(source['type'], 'Prepare it, or correct the paths.')
        prepare_source(source, split, reference, hint)
    try:
        dataset = build_openmixup_dataset(cfg)
    except (TypeError, KeyError, AssertionError, AttributeError) as e:
        raise ConfigError(f'cannot build data.{split}: {e}') from e
    if isinstance(dataset, ClassificationDataset) and labels_of(dataset) is None:
        raise DatasetError(f'data.{split} has no labels, which {type(dataset).__name__} needs: '
                           'every line of its list ends with one')
    return dataset


def labels_of(dataset: Dataset) -> list[int] | None:
    """Labels of all images that have one, or None."""
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if parts[0] is not None:
        found = [labels_of(part) for part in parts]
        return None if None in found else [label for part in found for label in part]
    for name in ('data_source', 'data_source_labeled'):
        labels = getattr(getattr(dataset, name, None), 'labels', None)
        if labels is not None:
            return list(labels)
    return None


def _image_sources(cfg) -> Iterator[dict]:
    """Configs of the lists of images in that of a data set, nested ones too."""
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            yield from _image_sources(part)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key.startswith('data_source') and isinstance(value, dict):
                if value.get('type') in SOURCES:
                    yield value
            elif key in ('dataset', 'datasets'):
                yield from _image_sources(value)


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
