"""Scenes of digits: what the annotations say is what the pictures show, and no digit is in both."""
import filecmp
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for package in ('sklearn', 'skimage', 'pycocotools'):
    pytest.importorskip(package)

# Of pycocotools, under NumPy 2.
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')

TOOLS = Path(__file__).parents[1] / 'tools'
PARTS = {'train': 12, 'val': 6}


@pytest.fixture(scope='module')
def converter():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module('dataset_converters.digit_scenes')
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope='module')
def scenes(converter, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digit_scenes'
    converter.convert(out, **PARTS)
    return out


@pytest.fixture(params=PARTS)
def part(request):
    return request.param


@pytest.fixture
def coco(scenes, part):
    from pycocotools.coco import COCO
    return COCO(scenes / f'annotations/{part}.json')


def files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file())


def annotations(scenes: Path, part: str) -> list[dict]:
    return json.loads((scenes / f'annotations/{part}.json').read_text())['annotations']



def test_same_seed_same_bytes(converter, scenes, tmp_path):
    converter.convert(tmp_path / 'again', **PARTS)
    names = files(scenes)
    assert len(names) == 2 * sum(PARTS.values()) + 2
    assert files(tmp_path / 'again') == names
    assert filecmp.cmpfiles(scenes, tmp_path / 'again', names, shallow=False)[1:] == ([], [])
    assert files(tmp_path) == [f'again/{name}' for name in names]  # nothing else is left behind


def test_another_seed_is_another_set(converter, scenes, tmp_path):
    converter.convert(tmp_path / 'other', train=1, val=1, seed=1)
    for part in PARTS:
        assert not filecmp.cmp(scenes / part / '00000.jpg', tmp_path / 'other' / part / '00000.jpg',
                               shallow=False)


def test_fewer_scenes_are_the_first_of_many(converter, scenes, tmp_path):
    converter.convert(tmp_path / 'few', train=0, val=2)
    names = ['val/00000.jpg', 'val/00001.jpg', 'seg_maps/val/00001.png']
    assert filecmp.cmpfiles(scenes, tmp_path / 'few', names, shallow=False)[0] == names


def test_whole_or_not_at_all(converter, monkeypatch, tmp_path):
    def fail(*args):
        raise KeyboardInterrupt

    out = tmp_path / 'scenes'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(converter, 'write', fail)
        converter.convert(out)
    assert not out.exists()
    converter.convert(out, train=1, val=1)
    before = files(out)
    converter.convert(out, train=2, val=2)  # what is there already stays
    assert files(out) == before


def test_coco_layout(coco, scenes, part):
    assert len(coco.imgs) == PARTS[part]
    assert coco.loadCats(coco.getCatIds()) == [
        dict(id=label + 1, name=str(label)) for label in range(10)]
    for image in coco.imgs.values():
        with Image.open(scenes / part / image['file_name']) as picture:
            assert (picture.mode, picture.size) == ('RGB', (image['width'], image['height']))
    assert all(a['iscrowd'] == 0 for a in coco.anns.values())


def test_boxes_are_tight_around_masks(coco):
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        ys, xs = mask.nonzero()
        left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        assert annotation['bbox'] == [left, top, right - left, bottom - top]
        assert annotation['area'] == mask.sum()


def test_seg_maps_are_the_masks(coco, converter, scenes, part):
    for image in coco.imgs.values():
        expected = np.full((image['height'], image['width']), converter.BACKGROUND)
        covered = np.zeros(expected.shape, int)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(annotation).astype(bool)
            covered += mask
            expected[mask] = int(coco.cats[annotation['category_id']]['name'])
        assert covered.max() == 1  # a pixel belongs to one digit
        seg_map = Image.open(scenes / f'seg_maps/{part}/{Path(image["file_name"]).stem}.png')
        assert seg_map.mode == 'L'
        np.testing.assert_array_equal(seg_map, expected)


def test_labels_are_those_of_the_digits(coco):
    from sklearn.datasets import load_digits
    target = load_digits().target
    for annotation in coco.anns.values():
        assert annotation['category_id'] == target[annotation['digit_index']] + 1


def test_several_digits_of_different_sizes(coco, converter):
    counts = [len(coco.getAnnIds(image)) for image in coco.imgs]
    fewest, most = converter.DIGITS
    assert min(counts) >= fewest and max(counts) <= most and len(set(counts)) > 1
    heights = [a['bbox'][3] for a in coco.anns.values()]
    smallest, largest = converter.SIDES
    assert max(heights) <= largest and min(heights) >= smallest / 2
    assert max(heights) > 2 * min(heights)


def test_digits_can_be_seen(coco, scenes, part):
    for image in coco.imgs.values():
        picture = Image.open(scenes / part / image['file_name']).convert('L')
        grey = np.asarray(picture, dtype=float)
        seg_map = np.asarray(
            Image.open(scenes / f'seg_maps/{part}/{Path(image["file_name"]).stem}.png'))
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            # One colour: ink varies little, for all the texture behind it.
            mask = coco.annToMask(annotation).astype(bool)
            assert np.median(np.abs(grey[mask] - np.median(grey[mask]))) < 12
        assert (seg_map == 10).mean() > 0.5


def test_no_validation_digit_in_training(converter, scenes, tmp_path):
    used = {part: {a['digit_index'] for a in annotations(scenes, part)} for part in PARTS}
    split = converter.split()
    assert used['train'] <= set(split['train']) and used['val'] <= set(split['val'])
    assert set(split['train']).isdisjoint(split['val'])
    assert set(converter.PHOTOGRAPHS['train']).isdisjoint(converter.PHOTOGRAPHS['val'])


def test_split_is_that_of_the_classification_demo(converter, tmp_path):
    digits = importlib.import_module('dataset_converters.digits')
    digits.convert(tmp_path / 'digits')
    for part, indices in converter.split().items():
        files = (tmp_path / 'digits' / part).rglob('*.png')
        assert sorted(int(f.stem) for f in files) == list(indices)


def test_a_digit_painted_on_background_costs():
    """mmseg's metric on the ten classes, background after them: what the layout relies on."""
    IoUMetric = pytest.importorskip('mmseg.evaluation').IoUMetric
    import torch
    truth = torch.full((10, 10), 10)
    truth[0] = 3
    predicted = truth.clone()

    def iou_of_3() -> float:
        intersect, union, _, _ = IoUMetric.intersect_and_union(predicted, truth, 10, 255)
        assert union.sum() == union[3]
        return float(intersect[3] / union[3])

    assert iou_of_3() == 1
    predicted[1] = 3
    assert iou_of_3() == 0.5
    predicted[0] = 10
    assert iou_of_3() == 0
