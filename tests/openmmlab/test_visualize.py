"""Pictures of predictions and ground truth, drawn by mmengine's visualizer."""
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from mmlit.errors import ConfigError
from mmlit.openmmlab.trainer import load_config
from mmlit.visualization import (
    SHORT_SIDE,
    beside,
    draw_ground_truth,
    draw_instances,
    draw_prediction,
    draw_scores,
    draw_segments,
    load_model,
)

from ..conftest import GOLDEN_ARCH

ROOT = Path(__file__).parents[2]
BACKBONE = f'dict(_delete_=True, type="LITv2", arch={GOLDEN_ARCH}, out_indices=(0, 1, 2, 3))'
CHANNELS = GOLDEN_ARCH['embed_dims']
DETECTION = f'''
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
model = dict(
    backbone={BACKBONE}, neck=dict(in_channels={CHANNELS}, out_channels=16),
    bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1))
test_dataloader = dict(batch_size=1, dataset=dict(
    type='CocoDataset', metainfo=dict(classes=('red', 'green', 'blue')), data_root='ROOT',
    ann_file='coco.json', data_prefix=dict(img='images'), test_mode=True, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 96)),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs')]))
'''
SEGMENTATION = f'''
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
model = dict(
    pretrained=None, backbone={BACKBONE}, neck=dict(in_channels={CHANNELS}, out_channels=16),
    decode_head=dict(num_classes=3, in_channels=[16] * 4, channels=16))
test_dataloader = dict(batch_size=1, dataset=dict(
    type='BaseSegDataset', data_root='ROOT', img_suffix='.png', seg_map_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='maps'), test_mode=True,
    metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 255, 0], [0, 0, 255], [255, 255, 0]]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
              dict(type='PackSegInputs')]))
'''
CLASSIFICATION = f'''
_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
data_preprocessor = dict(num_classes=3, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
model = dict(
    type='ImageClassifier', backbone=dict(type='LITv2', arch={GOLDEN_ARCH}),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels={CHANNELS[-1]}))
test_dataloader = dict(batch_size=1, dataset=dict(
    type='CustomDataset', data_root='ROOT', classes=('red', 'green', 'blue'), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=64), dict(type='PackInputs')]))
'''
RED = (255, 0, 0)


@pytest.fixture
def image(tmp_path):
    """All red, 96 x 128."""
    path = tmp_path / 'images/red.png'
    path.parent.mkdir()
    Image.new('RGB', (128, 96), RED).save(path)
    return path


@pytest.fixture(params=[DETECTION, SEGMENTATION, CLASSIFICATION],
                ids=['detection', 'segmentation', 'classification'])
def config(request, tmp_path):
    if request.param is CLASSIFICATION:
        pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    path = tmp_path / 'config.py'
    path.write_text(request.param.replace('ROOT', str(tmp_path)))
    return path


@pytest.fixture
def checkpoint(config, tmp_path):
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    return tmp_path / 'model.pth'


def visualize(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['visualize.py', *map(str, args)])
    runpy.run_path(str(ROOT / 'tools/visualize.py'), run_name='__main__')


def test_command_line(config, checkpoint, image, tmp_path, monkeypatch):
    out = tmp_path / 'deep' / 'out'
    visualize(monkeypatch, config, checkpoint, image, '--out', out)
    assert [p.name for p in out.iterdir()] == ['red.png']
    picture = np.asarray(Image.open(out / 'red.png'))
    assert picture.shape[0] == SHORT_SIDE and 640 <= picture.shape[1] < 1300
    # Beside the 640 columns of the image lie bars or the legend.
    assert (picture.shape[1] == 640) == ('retinanet' in config.read_text())


def test_model_sees_bgr_where_its_config_says_so(config, checkpoint, image):
    """As through the test pipeline's own LoadImageFromFile."""
    cfg, model = load_model(config, checkpoint)
    seen = []
    model.data_preprocessor.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]['inputs'][0]))
    draw_prediction(cfg, model, image)
    assert seen[0][:, 0, 0].tolist() == [0, 0, 255]


def seen_by(cfg, model, path):
    seen = []
    hook = model.data_preprocessor.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]['inputs'][0]))
    picture = draw_prediction(cfg, model, path)
    hook.remove()
    return seen[0], picture


@pytest.mark.parametrize('keys, turned', [
    (dict(), True), (dict(color_type='color_ignore_orientation'), False),
    (dict(imdecode_backend='pillow'), True)])
def test_exif_turns_what_the_pipeline_turns(keys, turned, config, checkpoint, tmp_path):
    colours = Image.new('RGB', (128, 64), (0, 0, 255))
    colours.paste(RED, (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(tmp_path / 'turned.jpg', exif=exif, quality=100)
    cfg, model = load_model(config, checkpoint)
    cfg.test_dataloader.dataset.pipeline[0].update(keys)
    x, picture = seen_by(cfg, model, tmp_path / 'turned.jpg')
    upper, left = (x[:, 3, -3], x[:, -3, 3])
    assert int(upper[2]) == pytest.approx(254 if turned else 0, abs=4)
    assert int(left[2]) == pytest.approx(0 if turned else 254, abs=4)
    assert (picture.shape[0] > 640) == turned


@pytest.mark.parametrize('config', [CLASSIFICATION], indirect=True)
@pytest.mark.parametrize('channels', [1, 4])
def test_models_of_other_channels_see_what_their_pipeline_loads(channels, config, tmp_path):
    config.write_text(config.read_text().replace(
        'arch=', f'in_channels={channels}, arch=').replace('[127.5] * 3', f'[127.5] * {channels}')
        .replace("dict(type='LoadImageFromFile')", "dict(type='LoadImageFromFile', color_type='"
                 f"{'grayscale' if channels == 1 else 'unchanged'}')"))
    Image.new('RGBA', (128, 96), (*RED, 200)).save(tmp_path / 'red.png')
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    x, picture = seen_by(cfg, model, tmp_path / 'red.png')
    assert x[:, 5, 5].tolist() == ([76] if channels == 1 else [0, 0, 255, 200])
    assert picture[5, 5].tolist() == ([76] * 3 if channels == 1 else [*RED])


@pytest.mark.parametrize('wrapped', [False, True])
def test_classes_in_place_of_names_and_wrapped_data_sets(wrapped, config, checkpoint, image):
    from mmcv.transforms import LoadImageFromFile
    cfg, model = load_model(config, checkpoint)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline[0]['type'] = LoadImageFromFile
    if wrapped:
        cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=dataset)
    x, picture = seen_by(cfg, model, image)
    assert x[:, 0, 0].tolist() == [0, 0, 255] and picture.shape[0] == SHORT_SIDE


@pytest.mark.parametrize('config', [SEGMENTATION], indirect=True)
def test_pictures_that_are_there_are_kept(config, checkpoint, image, tmp_path, monkeypatch):
    mine = tmp_path / 'out/red.png'
    mine.parent.mkdir()
    mine.write_text('mine')
    with pytest.raises(SystemExit, match='--overwrite'):
        visualize(monkeypatch, config, checkpoint, image, '--out', mine.parent)
    assert mine.read_text() == 'mine'
    visualize(monkeypatch, config, checkpoint, image, '--out', mine.parent, '--overwrite')
    assert Image.open(mine).size[1] >= SHORT_SIDE


@pytest.mark.parametrize('config', [DETECTION], indirect=True)
def test_classes_without_a_name(config, image, tmp_path):
    config.write_text(config.read_text().replace('num_classes=3', 'num_classes=5'))
    cfg = load_config(config)
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    cfg, model = load_model(config, tmp_path / 'model.pth')
    with torch.no_grad():
        model.bbox_head.retina_cls.bias.view(-1, 5)[:, 4] = 9  # sure of the last class
    with pytest.raises(ConfigError, match=r"class 4.*'red', 'green', 'blue'.*num_classes"):
        draw_prediction(cfg, model, image)


@pytest.mark.parametrize('config', [DETECTION], indirect=True)
def test_errors_write_nothing(config, checkpoint, image, tmp_path, monkeypatch):
    def fails(*args):
        with pytest.raises(SystemExit) as e:
            visualize(monkeypatch, *args, '--out', out)
        assert str(e.value).startswith('error: ') and '\n' not in str(e.value)
        assert not out.exists()
        return str(e.value)

    out = tmp_path / 'out'
    broken, short = tmp_path / 'broken.png', tmp_path / 'short.pth'
    broken.write_bytes(image.read_bytes()[:60])
    assert 'none.png' in fails(config, checkpoint, image, tmp_path / 'none.png')
    assert 'cannot read the image' in fails(config, checkpoint, image, broken)
    assert 'same name' in fails(config, checkpoint, image, tmp_path / 'other' / 'red.png')
    assert 'does not exist' in fails(config, tmp_path / 'none.pth', image)
    state = torch.load(checkpoint)['state_dict']
    torch.save({k: v for k, v in state.items() if 'bbox_head' not in k}, short)
    assert 'it lacks bbox_head' in fails(config, short, image)
    config.write_text(config.read_text().replace('stacked_convs', 'stacked_layers'))
    assert 'cannot build the model' in fails(config, checkpoint, image)
    demo = ROOT / 'configs/classification/digits/lit_v2_digits_sz64_bs64_ep12.py'
    assert 'is imported in this process already' in fails(demo, checkpoint, image)


def test_image_is_not_overwritten(image, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match='would overwrite'):
        visualize(monkeypatch, 'config.py', 'none.pth', image, '--out', image.parent)
    assert Image.open(image).getpixel((0, 0)) == RED


def test_instances():
    red = np.full((96, 128, 3), RED, np.uint8)
    masks = np.zeros((2, 96, 128), bool)
    masks[0, 10:30, 10:40] = True
    boxes = torch.tensor([[10., 10, 40, 30], [100, 70, 128, 96]])
    picture = draw_instances(red, boxes, torch.tensor([0, 1]), ('x', 'a long name'),
                             [(0, 255, 0), (0, 0, 255)], masks, torch.tensor([0.9, 0.8]))
    assert picture.shape == (480, 640, 3)
    assert np.all(picture[240, 320] == RED)
    assert np.all(np.abs(picture[100, 125].astype(int) - (127, 127, 0)) < 3)  # mask over red
    green = np.all(picture == (0, 255, 0), axis=2)
    assert green[51, 60:190].all() or green[50, 60:190].all()  # the upper line of the first box
    blue = np.all(picture == (0, 0, 255), axis=2)
    # The second box ends at the border, and its label too: both are whole.
    assert blue[:, 637:639].any() and blue[477:479].any()
    rows, columns = np.nonzero(blue[:348])
    assert columns.min() < 530 and columns.max() < 640 and len(rows) > 1000
    assert np.all(draw_instances(red, boxes[:0], torch.tensor([]), ('x', ), [RED]) == RED)


def test_segments_and_legend():
    red = np.full((96, 128, 3), RED, np.uint8)
    labels = np.full((96, 128), 255)
    labels[:48, :64], labels[48:, :64] = 0, 40
    classes = [f'class number {i}' for i in range(41)]
    picture = draw_segments(red, labels, classes, [(0, 255, 0)] * 40 + [(0, 0, 255)])
    assert np.all(picture[240, 500] == RED)  # ignored
    assert np.all(np.abs(picture[100, 100].astype(int) - (127, 127, 0)) < 3)
    legend = picture[:, 648:]
    for colour in ((0, 255, 0), (0, 0, 255)):
        assert np.all(legend == colour, axis=2).sum() > 100
    assert np.all(legend[:, -1] == 255) and np.all(legend[-1] == 255)  # nothing is cut
    labels = np.arange(41)[None].repeat(41, 0)
    colours = [(i, 255, 0) for i in range(41)]
    many = draw_segments(red[:41, :41], labels, classes, colours)[:, 488:]
    assert all(np.all(many == colour, axis=2).any() for colour in colours)
    assert np.all(many[:, -1] == 255) and np.all(many[-1] == 255)


def test_bars():
    picture = draw_scores(np.full((9, 9, 3), RED, np.uint8), torch.tensor([0.1, 0.7, 0.2]),
                          ['x', 'y' * 80, 'z'])
    assert picture.shape == (480, 480 + 8 + 360, 3) and np.all(picture[:, :480] == RED)
    bars = np.all(picture == (31, 119, 180), axis=2).sum(axis=1)
    assert [int(bars[20 + 92 * i + 38]) for i in range(3)] == pytest.approx(
        [328 * s for s in (0.7, 0.2, 0.1)], abs=2)
    assert np.all(picture[:, -1] == 255)


@pytest.mark.parametrize('config', [DETECTION, SEGMENTATION], indirect=True)
def test_ground_truth_beside_prediction(config, checkpoint, image, tmp_path):
    mask = np.zeros((96, 128), np.uint8)
    mask[20:60, 30:90] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    (tmp_path / 'maps').mkdir()
    Image.fromarray(mask).save(tmp_path / 'maps/red.png')
    (tmp_path / 'coco.json').write_text(json.dumps(dict(
        images=[dict(id=1, file_name='red.png', width=128, height=96)],
        categories=[dict(id=1, name='green')],
        annotations=[dict(id=1, image_id=1, category_id=1, iscrowd=0, area=2400,
                          bbox=[30, 20, 60, 40],
                          segmentation=dict(size=rle['size'], counts=rle['counts'].decode()))])))
    cfg, model = load_model(config, checkpoint)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    truth = draw_ground_truth(dataset, 0)
    prediction = draw_prediction(cfg, model, dataset.get_data_info(0)['img_path'])
    assert len(truth) == len(prediction) == SHORT_SIDE
    assert not np.all(truth[200, 300] == RED)
    both = beside(truth, prediction)
    assert both.shape[1] == truth.shape[1] + 8 + prediction.shape[1]
