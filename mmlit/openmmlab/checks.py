"""Mistakes in mmengine configs and data that the toolkits report late, obscurely or not at all."""
import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from mmlit.errors import ConfigError, DatasetError
from mmlit.models import LITv2

SPLITS = ('train', 'val', 'test')


def check_config(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """Check what can be checked before anything is built or written.

    Args:
        cfg: A config for mmdet, mmseg or mmpretrain.
        splits: The data that will be used.

    Raises:
        ConfigError: If neck or head do not fit the backbone or the classes; names the key.
        DatasetError: If files of the data set are missing or malformed; names file and key.
    """
    _check_neck(cfg.model)
    for split in splits:
        for key, dataset in _datasets(cfg, split):
            _check_files(key, dataset)
            _check_classes(key, dataset, cfg.model)


def _check_neck(model) -> None:
    backbone, neck = model.get('backbone', {}), model.get('neck')
    expected = neck and neck.get('in_channels')
    if backbone.get('type') not in ('LITv2', 'mmlit.LITv2') or not isinstance(expected, list):
        return
    arch = backbone.get('arch', 'small')
    if isinstance(arch, str):
        if arch.lower() not in LITv2.arch_zoo:
            return  # LITv2 itself says so
        arch = LITv2.arch_zoo[arch.lower()]
    indices = backbone.get('out_indices', (3, ))
    given = [arch['embed_dims'][i] for i in ([indices] if isinstance(indices, int) else indices)]
    if expected != given:
        raise ConfigError(f'model.neck.in_channels={expected}, but the backbone gives {given}: '
                          f'channels {arch["embed_dims"]} at out_indices={tuple(indices)}')


def _datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """The data sets of a split, those inside wrappers too, with their keys."""
    loader = cfg.get(f'{split}_dataloader') or {}
    waiting = [(f'{split}_dataloader.dataset', loader.get('dataset'))]
    while waiting:
        key, dataset = waiting.pop()
        if not dataset:
            continue
        if 'dataset' in dataset:
            waiting.append((f'{key}.dataset', dataset['dataset']))
        elif 'datasets' in dataset:
            waiting += [(f'{key}.datasets.{i}', d) for i, d in enumerate(dataset['datasets'])]
        else:
            yield key, dataset


def _check_files(key: str, dataset: dict) -> None:
    root = dataset.get('data_root') or ''
    if '://' in root:
        return
    paths = {f'data_prefix.{k}': v for k, v in (dataset.get('data_prefix') or {}).items()
             if isinstance(v, str)} if isinstance(dataset.get('data_prefix'), dict) else {}
    if dataset.get('ann_file'):
        paths['ann_file'] = dataset['ann_file']
    for name, value in paths.items():
        path = Path(root, value)
        if not path.exists():
            raise DatasetError(f'the data set is not there: {key}.{name} is {value} under '
                               f'data_root={root!r}, looked for at {path.absolute()}. Prepare the '
                               'data set, or correct the paths')
    if str(dataset.get('ann_file', '')).endswith('.json'):
        _check_coco(key, Path(root, dataset['ann_file']), _class_names(dataset))


def _check_coco(key: str, path: Path, classes: list[str]) -> None:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        missing = {'images', 'annotations', 'categories'} - set(content)
    except (ValueError, TypeError) as e:
        raise DatasetError(f'{key}.ann_file: {path.absolute()} is not JSON: {e}') from None
    if missing:
        raise DatasetError(f'{key}.ann_file: {path.absolute()} is no COCO annotation file: it '
                           f'lacks {sorted(missing)}')
    names = {c.get('name') for c in content['categories']}
    absent = [c for c in classes if c not in names]
    if absent:
        raise DatasetError(f'{key}.metainfo.classes: {path.absolute()} has no category for '
                           f'{absent[:5]}; its categories are {sorted(map(str, names))[:10]}')
    sizes = {i['id'] for i in content['images']}
    for number, annotation in enumerate(content['annotations']):
        if annotation.get('image_id') not in sizes or len(annotation.get('bbox', ())) != 4:
            raise DatasetError(f'{key}.ann_file: annotation {number} of {path.absolute()} has '
                               'no image in the file, or no bbox of four numbers')
    if 'train' in key and not content['annotations']:
        raise DatasetError(f'{key}.ann_file: {path.absolute()} holds no annotation: there is '
                           'nothing to learn from')


def _class_names(dataset: dict) -> list[str]:
    """Names of the classes: the config's, else those of the data set's type."""
    named = (dataset.get('metainfo') or {}).get('classes')
    if named is None:
        kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else None
        named = getattr(kind, 'METAINFO', {}).get('classes')
    return list(named) if isinstance(named, (list, tuple)) else []


def _check_classes(key: str, dataset: dict, model) -> None:
    classes = len(_class_names(dataset))
    for name, head in _heads('model', model):
        outputs = head.get('num_classes')
        # mmseg may have more outputs than classes: the rest is background.
        wrong = outputs < classes if 'decode' in name else outputs != classes
        if classes and wrong:
            raise ConfigError(f'{name}.num_classes={outputs}, but {key} has {classes} classes')


def _heads(key: str, config) -> Iterator[tuple[str, dict]]:
    """Every head with classes inside a model's config, with its key."""
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        inner = f'{key}.{name}'
        if isinstance(value, dict) and 'head' in str(inner) and 'num_classes' in value:
            yield inner, value
        elif isinstance(value, (dict, list)) and 'head' in inner:
            yield from _heads(inner, value)


@HOOKS.register_module()
class CheckBatchHook(Hook):
    """Names the file behind segmentation maps of another size or with labels of no class."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if not isinstance(data_batch, dict) or not isinstance(data_batch.get('inputs'), list):
            return
        model = getattr(runner.model, 'module', runner.model)
        head = getattr(model, 'decode_head', None)
        if head is None or not hasattr(head, 'num_classes'):
            return
        ignored = getattr(head, 'ignore_index', 255)
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples'], strict=True):
            labels, file = sample.gt_sem_seg.data, sample.metainfo.get('seg_map_path', 'a map')
            if labels.shape[-2:] != image.shape[-2:]:
                raise DatasetError(f'{file} has {tuple(labels.shape[-2:])} pixels where its image '
                                   f'has {tuple(image.shape[-2:])} (as the pipeline gives them)')
            highest = labels[labels != ignored].max().item() if (labels != ignored).any() else 0
            if highest >= head.num_classes:
                raise DatasetError(f'{file} holds the label {highest}, but decode_head.num_classes '
                                   f'is {head.num_classes}: labels run from 0, and {ignored} is '
                                   'ignored (reduce_zero_label shifts them by one)')
