"""Mistakes in mmengine configs and data that the toolkits report late, obscurely or not at all.

What a check does not know, it passes: other types of data sets, necks and heads have rules of their
own.
"""
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS, HOOKS, MODELS

from mmlit.config_types import arguments, is_a, type_name
from mmlit.errors import ConfigError, DatasetError
from mmlit.models import LITv2

from .scopes import find_class

SPLITS = ('train', 'val', 'test')
# Necks that take every output of the backbone, each with its number of channels.
STRICT_NECKS = ('FPN', 'PAFPN', 'FPN_CARAFE', 'FPG', 'NASFPN', 'NASFCOS_FPN', 'HRFPN', 'RFP',
                'ChannelMapper', 'YOLOXPAFPN', 'CSPNeXtPAFPN', 'MultiLevelNeck', 'Feature2Pyramid')
# Where a model keeps the heads that have one output for each class of the data set.
CLASS_HEADS = ('bbox_head', 'mask_head', 'head', 'decode_head')


def check_config(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """Check what can be checked before anything is built or written.

    Args:
        cfg: A config for mmdet, mmseg or mmpretrain.
        splits: The data that will be used.

    Raises:
        ConfigError: If neck or head do not fit the backbone or the classes; names the key.
        DatasetError: If files of the data set are missing or malformed; names file and key.
    """
    check_structure(cfg, splits)
    for split in splits:
        for key, dataset, kind in _datasets(cfg, split):
            _check_files(key, dataset, kind)


def check_structure(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """The part of :func:`check_config` that reads no file.

    Raises:
        ConfigError: If neck or head do not fit the backbone or the classes; names the key.
    """
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(f'the config {cfg.filename} has no model')
    scope = _scope(cfg)
    models = dict(_models('model', cfg.model))
    for key, model in models.items():
        _check_neck(key, model, scope)
    for split in splits:
        for data_key, dataset, kind in _datasets(cfg, split):
            _check_metainfo(data_key, dataset, kind)
            for key, model in models.items():
                _check_classes(data_key, dataset, kind, key, model)


def _scope(cfg: Config) -> str:
    return cfg.get('default_scope') or 'mmengine'


def _models(key: str, model: dict) -> Iterator[tuple[str, dict]]:
    """A model, and the one inside it where it trains or tracks with another's help."""
    yield key, model
    if isinstance(model.get('detector'), dict):
        yield from _models(f'{key}.detector', model['detector'])


def _check_neck(key: str, model: dict, scope: str) -> None:
    backbone, neck, name = model.get('backbone'), model.get('neck'), f'{key}.neck'
    if isinstance(neck, list | tuple) and neck:
        neck, name = neck[0], f'{name}.0'  # the others take what it gives
    if not isinstance(backbone, dict) or not isinstance(neck, dict):
        return
    expected = neck.get('in_channels')
    if type_name(backbone.get('type')) != 'LITv2' or not isinstance(expected, list | tuple):
        return
    kind = find_class(MODELS, neck.get('type', ''), scope)
    arch, indices = backbone.get('arch', 'small'), backbone.get('out_indices', (3, ))
    if isinstance(arch, str):
        arch = LITv2.arch_zoo.get(arch.lower(), {})
    if not isinstance(kind, type) or not is_a(kind, *STRICT_NECKS):
        return
    try:
        indices = [indices] if isinstance(indices, int) else list(indices)
        given = [arch['embed_dims'][i] for i in indices]
    except (KeyError, IndexError, TypeError):
        return  # LITv2 itself says what is wrong
    if list(expected) != given:
        raise ConfigError(f'{name}.in_channels={expected}, but the backbone gives {given}: '
                          f'channels {arch["embed_dims"]} at out_indices={tuple(indices)}')


def _datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict, type]]:
    """The data sets of a split whose type is known, those inside wrappers too, with their keys."""
    loader = cfg.get(f'{split}_dataloader') or {}
    waiting = [(f'{split}_dataloader.dataset', loader.get('dataset'))] if isinstance(
        loader, dict) else []
    while waiting:
        key, dataset = waiting.pop()
        if not isinstance(dataset, dict):
            continue
        if 'dataset' in dataset:
            waiting.append((f'{key}.dataset', dataset['dataset']))
        elif isinstance(dataset.get('datasets'), list | tuple):
            waiting += [(f'{key}.datasets.{i}', d) for i, d in enumerate(dataset['datasets'])]
        else:
            kind = find_class(DATASETS, dataset.get('type', ''), _scope(cfg))
            if isinstance(kind, type):
                yield key, dataset, kind


def _check_files(key: str, dataset: dict, kind: type) -> None:
    if not is_a(kind, 'BaseDataset') or 'download' in arguments(kind)[0] or _is_remote(dataset):
        return
    root = dataset.get('data_root') or ''
    paths = {'ann_file': dataset.get('ann_file')}
    prefixes = dataset.get('data_prefix')
    if isinstance(prefixes, dict):
        paths.update({f'data_prefix.{name}': prefix for name, prefix in prefixes.items()})
    elif isinstance(prefixes, str):
        paths['data_prefix'] = prefixes
    for name, value in paths.items():
        if not isinstance(value, str) or not (value or root):
            continue
        path = Path(root, value)
        if not path.exists() and value:
            raise DatasetError(f'the data set is not there: {key}.{name} is {value} under '
                               f'data_root={root!r}, looked for at {path.absolute()}. Prepare the '
                               'data set, or correct the paths')
    if paths['ann_file'] and _reads_coco(kind):
        _check_coco(key, Path(root, paths['ann_file']), dataset, kind)


def _is_remote(dataset: dict) -> bool:
    """Whether files lie where only mmengine's backends find them."""
    for name in ('backend_args', 'file_client_args'):
        backend = (dataset.get(name) or {}).get('backend', 'local')
        if backend not in ('local', 'disk'):
            return True
    prefixes = dataset.get('data_prefix') or {}
    texts = [dataset.get('data_root'), dataset.get('ann_file'),
             *(prefixes.values() if isinstance(prefixes, dict) else [prefixes])]
    return any('://' in text or 's3:' in text for text in texts if isinstance(text, str))


def _reads_coco(kind: type) -> bool:
    """Whether a type reads COCO's boxes as CocoDataset does: panoptic ones, LVIS and others do not,
    though they inherit from it."""
    methods = [getattr(kind, name, None) for name in ('load_data_list', 'parse_data_info')]
    return any(base.__name__ == 'CocoDataset'
               and methods == [vars(base).get('load_data_list'), vars(base).get('parse_data_info')]
               for base in kind.__mro__)


def _check_coco(key: str, path: Path, dataset: dict, kind: type) -> None:
    where = f'{key}.ann_file: {path.absolute()}'
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as e:
        raise DatasetError(f'{where} cannot be read: {e}') from None
    except ValueError as e:
        raise DatasetError(f'{where} is not JSON: {e}') from None
    parts = ('images', 'annotations', 'categories')
    lacking = [p for p in parts if not isinstance(content, dict) or p not in content]
    if lacking:
        hint = ''
        if isinstance(content, dict) and 'data_list' in content:
            hint = f": it is OpenMMLab 2's format, which BaseDetDataset reads, not {kind.__name__}"
        raise DatasetError(f'{where} is no COCO annotation file: it lacks {lacking}{hint}')
    if not all(isinstance(entry, dict) for part in parts for entry in content[part]):
        raise DatasetError(f'{where}: images, annotations and categories must be lists of objects')
    _check_categories(key, where, content, dataset, kind)
    _check_annotations(where, content)
    ids = Counter(a['id'] for a in content['annotations'] if 'id' in a)
    twice = next((i for i, n in ids.items() if n > 1), None)
    if twice is not None and getattr(kind, 'ANN_ID_UNIQUE', True):
        raise DatasetError(f'{where}: {ids[twice]} annotations have the id {twice}')
    if key.startswith('train') and not content['annotations'] and 'datasets' not in key:
        raise DatasetError(f'{where} holds no annotation: there is nothing to learn from')


def _check_categories(key: str, where: str, content: dict, dataset: dict, kind: type) -> None:
    classes = _class_names(dataset, kind)
    names = [c.get('name') for c in content['categories']]
    absent = [c for c in classes if c not in names]
    if absent and not _named_classes(dataset):
        absent_all = len(absent) == len(classes)
        raise DatasetError(
            f'{key} has no metainfo.classes, so its classes are the {len(classes)} of '
            f'{kind.__name__}, and {where.split(": ", 1)[1]} has '
            f'{"none of them" if absent_all else f"no category for {absent[:5]}"}: its categories '
            f'are {sorted(map(str, names))[:10]}. Name yours: metainfo=dict(classes=(...))')
    if absent:
        raise DatasetError(f'{key}.metainfo.classes: {where.split(": ", 1)[1]} has no category for '
                           f'{absent[:5]}; its categories are {sorted(map(str, names))[:10]}')
    order = [name for name in names if name in classes]
    if order != classes and len(order) == len(classes):
        print_log(f'{key}.metainfo.classes are in another order than the categories of '
                  f'{where.split(": ", 1)[1]}, and mmdet counts labels in the order of that file: '
                  f'names in pictures and of single results will be wrong. Its order: {order[:10]}',
                  logger='current', level='WARNING')


def _check_annotations(where: str, content: dict) -> None:
    for number, image in enumerate(content['images']):
        lacking = [k for k in ('id', 'file_name', 'height', 'width') if k not in image]
        if lacking:
            raise DatasetError(f'{where}: image {number} has no {" and no ".join(lacking)}')
    images = {image['id'] for image in content['images']}
    for number, annotation in enumerate(content['annotations']):
        box = annotation.get('bbox')
        whole = isinstance(box, list) and len(box) == 4 and all(
            isinstance(side, int | float) for side in box)
        if annotation.get('image_id') not in images or not (whole or annotation.get('ignore')):
            raise DatasetError(f'{where}: annotation {number} has no image in the file, or no bbox '
                               'of four numbers')
        lacking = [k for k in ('id', 'category_id', 'area') if k not in annotation]
        if lacking and not annotation.get('ignore'):
            raise DatasetError(f'{where}: annotation {number} has no {" and no ".join(lacking)}')


def _named_classes(dataset: dict):
    """What the config says the classes are: names, a file of names, or None."""
    metainfo = dataset.get('metainfo')
    named = metainfo.get('classes') if isinstance(metainfo, dict) else None
    return dataset.get('classes') if named is None else named


def _class_names(dataset: dict, kind: type) -> list[str]:
    """Names of the classes: the config's, else those of the data set's type."""
    named = _named_classes(dataset)
    if named is None:
        named = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    if isinstance(named, str):
        named = list_from_file(named) if Path(named).is_file() else []
    return list(named) if isinstance(named, list | tuple) else []


def _check_metainfo(key: str, dataset: dict, kind: type) -> None:
    """Names of classes that the toolkits would take for something else, or not see at all."""
    metainfo, named = dataset.get('metainfo'), _named_classes(dataset)
    taken, others = arguments(kind)
    if 'classes' in dataset and 'classes' not in taken and not others:
        raise ConfigError(f'{key}.classes: {kind.__name__} has no such argument. Names of classes '
                          'go into metainfo=dict(classes=(...))')
    if isinstance(metainfo, dict) and 'CLASSES' in metainfo and 'classes' not in metainfo:
        raise ConfigError(f'{key}.metainfo.CLASSES: nothing reads it; the key is classes')
    if isinstance(named, str) and not _is_remote(dict(ann_file=named)) and not Path(
            named).is_file():
        raise ConfigError(f'{key}.metainfo.classes={named!r} is one text, which would be read as '
                          f'the name of a file: a tuple of one name is ({named!r},), with a comma')
    twice = [name for name, n in Counter(_class_names(dataset, kind)).items() if n > 1]
    if named is not None and twice:
        raise ConfigError(f'{key}.metainfo.classes names {twice[:5]} more than once')


def _check_classes(data_key: str, dataset: dict, kind: type, key: str, model: dict) -> None:
    meta = {**(getattr(kind, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})}
    classes = len(_class_names(dataset, kind))
    # Panoptic sets count things and stuff, and models of texts have as many outputs as words.
    # Videos name what a benchmark counts, which is more than a tracker looks for.
    texts = {'language_model', 'text_encoder'} & set(model)
    if not classes or 'thing_classes' in meta or texts or is_a(kind, 'BaseVideoDataset'):
        return
    for name, outputs in _heads(key, model):
        # mmseg and mmpretrain train outputs that no label asks for; mmdet mixes up the labels.
        least = {'decode_head', 'head'} & set(name.split('.'))
        if outputs < classes if least else outputs != classes:
            origin = '' if _named_classes(dataset) else (
                f', those of {kind.__name__}: it has no metainfo.classes')
            raise ConfigError(f'{name}.num_classes={outputs}, but {data_key} has {classes} classes'
                              f'{origin}')


def _heads(key: str, config) -> Iterator[tuple[str, int]]:
    """Every head with an output for each class, by its key, with its number of classes."""
    for name in ('roi_head', *CLASS_HEADS):
        heads = config.get(name)
        listed = isinstance(heads, list | tuple)
        for i, head in enumerate(heads if listed else [heads]):
            inner = f'{key}.{name}.{i}' if listed else f'{key}.{name}'
            if not isinstance(head, dict):
                continue
            if name == 'roi_head':
                yield from _heads(inner, head)
            elif isinstance(head.get('num_classes'), int):
                yield inner, head['num_classes']


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
