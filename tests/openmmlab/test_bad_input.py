"""Mistakes in configs and data of detection and segmentation: one paragraph that names the key."""
import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from .test_training import ROOT, config, scenes  # noqa: F401, fixtures


@pytest.fixture
def task(request):
    return getattr(request, 'param', 'detection')


@pytest.fixture
def fails(config, tmp_path, monkeypatch):  # noqa: F811
    def run(*options):
        work_dir = tmp_path / 'work'
        command = ['train.py', config, '--work-dir', work_dir, '--cfg-options', *options,
                   'train_dataloader.num_workers=0']
        monkeypatch.setattr(sys, 'argv', list(map(str, command)))
        with pytest.raises(SystemExit) as e:
            runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
        message = str(e.value)
        assert message.startswith('error: ') and '\n' not in message, message
        return message

    return run


@pytest.mark.parametrize('option', ['ann_file=annotations/none.json', 'data_prefix.img=none/'])
def test_missing_files(fails, option, tmp_path):
    message = fails(f'train_dataloader.dataset.{option}')
    assert f'train_dataloader.dataset.{option.split("=")[0]}' in message and 'none' in message
    assert not (tmp_path / 'work').exists()


def change(content: dict, kind: str) -> dict:
    if kind == 'no categories':
        del content['categories']
    elif kind == 'no annotations':
        content['annotations'] = []
    elif kind == 'no box':
        content['annotations'][3]['bbox'] = [1, 2]
    elif kind == 'no image':
        content['annotations'][3]['image_id'] = 10**6
    elif kind == 'other categories':
        content['categories'][7]['name'] = 'seven'
    return content


@pytest.mark.parametrize('kind, problem', [
    ('no categories', "lacks ['categories']"), ('no annotations', 'nothing to learn from'),
    ('no box', 'annotation 3'), ('no image', 'annotation 3'),
    ('other categories', "no category for ['7']"), ('no JSON', 'is not JSON')])
def test_malformed_annotations(fails, scenes, tmp_path, kind, problem):  # noqa: F811
    path = tmp_path / 'annotations.json'
    if kind == 'no JSON':
        path.write_text('{"images": [')
    else:
        content = json.loads((scenes / 'annotations/train.json').read_text())
        path.write_text(json.dumps(change(content, kind)))
    message = fails(f'train_dataloader.dataset.ann_file={path}')
    assert problem in message and str(path) in message


@pytest.mark.parametrize('option, problem', [
    ('model.bbox_head.num_classes=7', 'model.bbox_head.num_classes=7, but train_dataloader.dataset'
     ' has 10 classes'),
    ('model.neck.in_channels=[16,32,64,96]', 'model.neck.in_channels=[16, 32, 64, 96], but the '
     'backbone gives [16, 32, 64, 128]'),
    ('model.backbone.out_indices=(1,2,3)', 'the backbone gives [32, 64, 128]'),
    ('model.backbone.alpha=2', 'alpha=2'),
])
def test_parts_that_do_not_fit(fails, option, problem):
    options = [option]
    if 'out_indices' in option:
        options.append('model.backbone.norm_indices=(1,2,3)')
    assert problem in fails(*options)


@pytest.mark.parametrize('task', ['segmentation'], indirect=True)
@pytest.mark.parametrize('kind, problem', [('size', 'pixels where its image'),
                                           ('label', 'holds the label 200')])
def test_segmentation_maps(fails, scenes, tmp_path, kind, problem):  # noqa: F811
    maps = tmp_path / 'maps'
    shutil.copytree(scenes / 'seg_maps/train', maps)
    for path in maps.glob('*.png'):
        labels = np.array(Image.open(path))
        labels = labels[:100] if kind == 'size' else np.full_like(labels, 200)
        Image.fromarray(labels).save(path)
    message = fails(f'train_dataloader.dataset.data_prefix.seg_map_path={maps}')
    assert problem in message and str(maps) in message


@pytest.mark.parametrize('task', ['segmentation'], indirect=True)
def test_too_few_outputs(fails):
    assert 'model.decode_head.num_classes=5' in fails('model.decode_head.num_classes=5')
