"""Checks pass what the toolkits train, and catch the mistakes that they promise to catch."""
import importlib
import importlib.util
import json
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmlit.errors import ConfigError, DatasetError, MMLitError
from mmlit.openmmlab.checks import check_config, check_structure
from mmlit.openmmlab.scopes import import_scope

from .conftest import needs_mmpretrain

CHANNELS = [96, 192, 384, 768]
BACKBONE = dict(type='mmlit.LITv2', out_indices=(0, 1, 2, 3))
CATS = ('cat', 'dog')


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file of two categories, changed by updates of its first annotation or parts."""
    (tmp_path / 'images').mkdir()

    def write(annotation=(), **parts) -> dict:
        content = dict(
            images=[dict(id=1, file_name='1.png', height=9, width=9)],
            annotations=[dict(id=1, image_id=1, bbox=[1, 1, 3, 3], area=9, category_id=1, iscrowd=0)
                         | dict(annotation)],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(CATS)])
        path = tmp_path / 'coco.json'
        path.write_text(json.dumps({**content, **parts}))
        return dict(type='CocoDataset', ann_file=str(path), data_root=str(tmp_path),
                    data_prefix=dict(img='images'), metainfo=dict(classes=CATS))

    return write


def config(dataset, scope='mmdet', split='train', **model) -> Config:
    cfg = Config({'model': dict(type='RetinaNet', backbone=BACKBONE, **model),
                  'default_scope': scope, f'{split}_dataloader': dict(dataset=dataset)})
    import_scope(cfg)
    return cfg


def head(classes: int) -> dict:
    return dict(bbox_head=dict(type='RetinaHead', num_classes=classes))


def shipped(package, *names, count=0):
    """Configs that a toolkit ships: those named, or some of all. (A base is missing in `sort`.)"""
    root = Path(package.__file__).parent / '.mim/configs'
    files = [root / name for name in names] or sorted(
        path for path in root.rglob('*.py')
        if not {'_base_', 'common', 'sort'} & set(path.relative_to(root).parts))
    return files[::max(1, len(files) // count)][:count] if count else files


def shipped_with_mmpretrain() -> list:
    if importlib.util.find_spec('mmpretrain') is None:
        return []
    return shipped(importlib.import_module('mmpretrain'), count=10)


@pytest.mark.parametrize('path', [
    *shipped(mmdet, *[f'{name}.py' for name in (
        'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco', 'htc/htc_r50_fpn_1x_coco',
        'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco', 'dyhead/atss_r50_fpn_dyhead_1x_coco',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic', 'lvis/mask-rcnn_r50_fpn_'
        'sample1e-3_ms-1x_lvis-v1', 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
        'semi-0.1-coco', 'glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', 'sort/sort_faster-rcnn_r50_fpn_8xb2-4e_'
        'mot17halftrain_test-mot17halfval', 'openimages/retinanet_r50_fpn_32xb2-1x_openimages')]),
    *shipped(mmdet, count=10), *shipped(mmseg, 'san/san-vit-b16_voc12aug-640x640.py'),
    *shipped(mmseg, count=10), *shipped_with_mmpretrain()], ids=lambda path: path.stem)
def test_configs_of_the_toolkits_pass(path):
    cfg = Config.fromfile(path, import_custom_modules=False)
    if 'model' not in cfg:
        pytest.skip('a fragment')
    cfg.default_scope = import_scope(cfg)
    check_structure(cfg)


@pytest.mark.parametrize('neck', [
    dict(type='FPN', in_channels=CHANNELS),
    [dict(type='FPN', in_channels=CHANNELS), dict(type='BFP', in_channels=256)],
    [dict(type='mmdet.FPN', in_channels=CHANNELS), dict(type='DyHead', in_channels=256)],
    dict(type='SSDNeck', in_channels=[512, 1024]), None], ids=str)
def test_necks_that_fit_or_have_rules_of_their_own_pass(neck):
    check_structure(config(None, neck=neck))


@pytest.mark.parametrize('wrap', [lambda n: n, lambda n: [n, dict(type='BFP', in_channels=256)]])
def test_channels_of_a_neck_that_do_not_fit_are_named(wrap):
    neck = wrap(dict(type='FPN', in_channels=[256, 512, 1024, 2048]))
    with pytest.raises(ConfigError, match=r'neck(\.0)?\.in_channels=.*gives \[96, 192, 384, 768\]'):
        check_structure(config(None, neck=neck))
    inner = config(None, detector=dict(backbone=BACKBONE, neck=neck))
    with pytest.raises(ConfigError, match='model.detector.neck'):
        check_structure(inner)


@pytest.mark.parametrize('model', [
    dict(head(2), rpn_head=dict(type='RPNHead', num_classes=1)),
    dict(roi_head=dict(bbox_head=[dict(num_classes=2)] * 3, mask_head=dict(num_classes=2),
                       semantic_head=dict(type='FusedSemanticHead', num_classes=183))),
    dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=53)),
    dict(head(256), language_model=dict(type='BertModel'))], ids=str)
@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_heads_with_classes_of_their_own_pass(coco, model, wrapper):
    dataset = coco()
    if wrapper == 'RepeatDataset':
        dataset = dict(type=wrapper, times=2, dataset=dataset)
    elif wrapper:
        dataset = dict(type=wrapper, datasets=[dataset, dataset])
    check_config(config(dataset, **model))


PANOPTIC = dict(id=1, image_id=1, file_name='1.png', segments_info=[])


@needs_mmpretrain
def test_other_formats_than_cocos_boxes_pass(coco):
    panoptic = coco(annotations=[PANOPTIC])
    panoptic['metainfo'] = dict(classes=CATS, thing_classes=CATS[:1], stuff_classes=CATS[1:])
    check_config(config(dict(panoptic, type='CocoPanopticDataset'), **head(1)))
    openmmlab2 = coco()
    Path(openmmlab2['ann_file']).write_text(json.dumps(dict(
        metainfo=dict(classes=CATS), data_list=[])))
    check_config(config(dict(openmmlab2, type='BaseDetDataset'), **head(2)))
    del openmmlab2['metainfo']
    check_config(config(dict(openmmlab2, type='MultiLabelDataset'), 'mmpretrain',
                        head=dict(type='MultiLabelLinearClsHead', num_classes=2)))
    check_config(config(dict(openmmlab2, type='NoSuchDataset'), **head(3)))
    with pytest.raises(DatasetError, match='BaseDetDataset reads'):
        check_config(config(openmmlab2, **head(80)))


@pytest.mark.parametrize('change', [
    dict(annotation=dict(iscrowd=1)), dict(annotation=dict(ignore=1, bbox=[])),
    dict(annotation=dict(category_id=7)), dict(images=[
        dict(id=i, file_name=f'{i}.png', height=9, width=9) for i in (1, 2)]),
    dict(info={}, licenses=[])], ids=str)
def test_annotations_that_mmdet_takes_pass(coco, change):
    check_config(config(coco(**change), **head(2)))


@pytest.mark.parametrize('remote', [
    dict(backend_args=dict(backend='petrel')), dict(data_root='s3://bucket/data/'),
    dict(file_client_args=dict(backend='petrel'))], ids=str)
def test_remote_files_are_not_looked_for(coco, remote):
    check_config(config({**coco(), 'ann_file': 'no/file.json', **remote}, **head(2)))


@needs_mmpretrain
def test_data_sets_that_are_downloaded_need_not_be_there():
    check_config(config(dict(type='CIFAR10', data_prefix='no/folder'), 'mmpretrain',
                        head=dict(type='LinearClsHead', num_classes=10)))


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdet.CocoDataset', CocoDataset])
def test_forgotten_metainfo_is_caught(coco, split, kind):
    dataset = dict(coco(), type=kind)
    del dataset['metainfo']
    with pytest.raises(ConfigError, match='num_classes=2, but .* 80 classes, those of CocoDataset: '
                                          'it has no metainfo.classes'):
        check_config(config(dataset, split=split, **head(2)))
    with pytest.raises(DatasetError, match=r'are the 80 of CocoDataset, .*none|no category for'):
        check_config(config(dataset, split=split, **head(80)))


@pytest.mark.parametrize('change, problem', [
    (dict(metainfo=dict(classes='cat')), r"tuple of one name is \('cat',\)"),
    (dict(metainfo=dict(CLASSES=CATS)), 'metainfo.CLASSES: nothing reads it'),
    (dict(metainfo=None, classes=CATS), 'classes: CocoDataset has no such argument'),
    (dict(metainfo=dict(classes=('cat', 'cat'))), 'more than once'),
    (dict(metainfo=dict(classes=('cat', 'dog', 'bird'))), 'num_classes=2, but'),
    (dict(data_prefix=dict(img='none')), r'data_prefix.img is none')], ids=str)
def test_mistakes_in_a_data_set_are_named(coco, change, problem):
    with pytest.raises(MMLitError, match=problem):
        check_config(config({**coco(), **change}, **head(2)))


@pytest.mark.parametrize('change, problem', [
    (dict(annotation=dict(bbox=None)), 'annotation 0 has no image in the file, or no bbox'),
    (dict(annotation=dict(bbox=[1, 2, 3, 'x'])), 'annotation 0'),
    (dict(annotations=[dict(id=1, image_id=1, bbox=[1, 1, 3, 3])]), 'no category_id and no area'),
    (dict(annotations=[dict(id=1, image_id=1, bbox=[1, 1, 3, 3], area=9, category_id=1)] * 2),
     '2 annotations have the id 1'),
    (dict(images=[dict(id=1, file_name='1.png')]), 'image 0 has no height and no width'),
    (dict(images=[3]), 'must be lists of objects'),
    (dict(categories=[dict(id=1, name='cow')]), 'has no category for')], ids=str)
def test_malformed_files_are_named(coco, change, problem):
    with pytest.raises(DatasetError, match=problem):
        check_config(config(coco(**change), **head(2)))


def test_segmentors_may_have_more_outputs_than_classes_and_other_auxiliary_heads(tmp_path):
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), metainfo=dict(classes=CATS))
    check_config(config(dataset, 'mmseg', decode_head=[dict(num_classes=2), dict(num_classes=3)],
                        auxiliary_head=dict(num_classes=1)))
    with pytest.raises(ConfigError, match=r'model.decode_head.1.num_classes=1'):
        check_config(config(dataset, 'mmseg', decode_head=[dict(num_classes=2),
                                                           dict(num_classes=1)]))
