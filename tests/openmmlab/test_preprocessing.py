"""Images as an exported model's input, against the pipelines of mmpretrain, mmdet and mmseg."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmlit.deployment.preprocessing import preprocessing_of
from mmlit.errors import ConfigError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
from prepare_images import open_image, prepare, remarks  # noqa: E402

LOAD = dict(type='LoadImageFromFile')
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
TO_RGB = dict(mean=MEAN, std=STD, bgr_to_rgb=True)
CLS = dict(mean=MEAN, std=STD, to_rgb=True)
DET, SEG = dict(TO_RGB, type='DetDataPreprocessor'), dict(TO_RGB, type='SegDataPreProcessor')
# Name: scope, steps after the loading, data_preprocessor.
PIPELINES = {
    'mmpretrain, edge': ('mmpretrain', [dict(type='ResizeEdge', scale=64, edge='short'),
                                        dict(type='CenterCrop', crop_size=56)], CLS),
    'mmpretrain, Pillow, bicubic': (
        'mmpretrain', [dict(type='ResizeEdge', scale=64, edge='long', backend='pillow',
                            interpolation='bicubic'), dict(type='CenterCrop', crop_size=56)], CLS),
    'mmpretrain, bicubic': ('mmpretrain', [
        dict(type='Resize', scale=(60, 50), interpolation='bicubic')], CLS),
    'mmpretrain, height, nearest, BGR': (
        'mmpretrain', [dict(type='ResizeEdge', scale=61, edge='height', interpolation='nearest'),
                       dict(type='CenterCrop', crop_size=(40, 30))], dict(mean=MEAN, std=STD)),
    'mmpretrain, torchvision': ('mmpretrain', [
        dict(type='NumpyToPIL', to_rgb=True),
        dict(type='torchvision/Resize', size=64, interpolation='bicubic'),
        dict(type='torchvision/CenterCrop', size=(56, 56)),
        dict(type='PILToNumpy', to_bgr=True)], CLS),
    'mmpretrain, Normalize in the pipeline': ('mmpretrain', [
        dict(type='Resize', scale=64), dict(type='Normalize', mean=MEAN, std=STD)], dict()),
    'mmdet, as large as fits': ('mmdet', [
        dict(type='Resize', scale=(133, 80), keep_ratio=True)], dict(DET, pad_size_divisor=32)),
    'mmdet, padded': ('mmdet', [
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 113, 112)))], DET),
    'mmdet, square, not resized, RGB': ('mmdet', [
        dict(type='Pad', pad_to_square=True, size_divisor=32)], dict(DET, bgr_to_rgb=False)),
    'mmseg': ('mmseg', [dict(type='Resize', scale=(128, 64), keep_ratio=True)],
              dict(SEG, size=(32, 32), pad_val=0)),
    'mmseg, divisor in tests': ('mmseg', [dict(type='Resize', scale_factor=0.5)],
                                dict(SEG, pad_val=3, test_cfg=dict(size_divisor=32))),
}
PACK = dict(mmpretrain='PackInputs', mmdet='PackDetInputs', mmseg='PackSegInputs')


def config_of(name: str, load: dict = LOAD) -> Config:
    scope, steps, preprocessor = PIPELINES[name]
    # mmdet's default keys ask for steps that are not there.
    pack = dict(type=PACK[scope], meta_keys=())
    dataset = dict(type='Some', pipeline=[load, *steps, pack])
    cfg = dict(default_scope=scope, model=dict(), test_dataloader=dict(dataset=dataset),
               data_preprocessor=preprocessor)
    return Config(cfg)


def by_toolkit(cfg: Config, path) -> np.ndarray:
    """What the backbone gets."""
    init_default_scope(cfg.default_scope)
    data = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=str(path), img_id=0))
    preprocessor = dict(dict(type='ClsDataPreprocessor'), **cfg.data_preprocessor)
    batch = {'inputs': [data['inputs']], 'data_samples': [data['data_samples']]}
    return MODELS.build(preprocessor)(batch, False)['inputs'][0].numpy()


def levels(cfg: Config, path) -> np.ndarray:
    """Differences, in grey levels."""
    ours, theirs = prepare(open_image(path), preprocessing_of(cfg, 'mmengine')), by_toolkit(
        cfg, path)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs) * 58


@pytest.fixture(scope='module', autouse=True)
def toolkits():
    for scope in PACK:
        pytest.importorskip(f'{scope}.models', reason=f'{scope} is not there')


@pytest.mark.parametrize('size', [(75, 106), (130, 65), (64, 64), (67, 300)])
@pytest.mark.parametrize('name', PIPELINES)
def test_every_pipeline_is_followed(name, size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    found = levels(config_of(name), tmp_path / 'image.png')
    # OpenCV rounds sums of bytes in its own ways.
    assert found.max() < 1.2 and found.mean() < 0.2


@pytest.mark.parametrize('keys', [
    dict(to_float32=True), dict(color_type='color_ignore_orientation'),
    dict(imdecode_backend='pillow'), dict(color_type='grayscale'), dict(color_type='unchanged')],
    ids=str)
def test_odd_images_are_read_as_in_the_training(keys, tmp_path):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(
        8, 0).repeat(8, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / 'turned.jpg', exif=turned, quality=95)
    colours.save(tmp_path / 'plain.png')
    colours.convert('L').save(tmp_path / 'grey.png')
    Image.fromarray(rng.integers(0, 65536, (40, 50)).astype(np.uint16)).save(tmp_path / 'deep.png')
    alpha = colours.convert('RGBA')
    alpha.putalpha(Image.linear_gradient('L').resize(colours.size))
    alpha.save(tmp_path / 'alpha.png')
    alpha.convert('LA').save(tmp_path / 'grey_alpha.png')
    colours.quantize(20).save(tmp_path / 'palette.png')
    cfg = config_of('mmpretrain, edge', dict(LOAD, **keys))
    if keys.get('color_type') in ('grayscale', 'unchanged'):  # any number of channels
        cfg.data_preprocessor = dict(mean=[100], std=[58])
    for path in sorted(tmp_path.iterdir()):
        if keys == dict(color_type='unchanged') and path.stem == 'grey_alpha':
            continue  # OpenCV makes four channels of two
        found = levels(cfg, path)
        scale = 257 if keys == dict(color_type='unchanged') and path.stem == 'deep' else 1
        assert found.max() < 3.5 * scale, (path.name, found.max())
        assert found.mean() < 1 * scale, (path.name, found.mean())
        turned_otherwise = path.stem == 'turned' and 'ignore_orientation' in str(keys)
        assert not any('EXIF' in r for r in remarks(open_image(path), preprocessing_of(
            cfg, 'mmengine'))) or turned_otherwise or keys == dict(color_type='unchanged')


def test_the_pipeline_is_that_of_tests_through_wrappers():
    cfg = config_of('mmpretrain, edge')
    inner = cfg.test_dataloader.dataset
    cfg.test_pipeline = [LOAD, dict(type='ResizeEdge', scale=9)]  # a variable that nothing uses
    expected = preprocessing_of(cfg, 'mmengine')
    for wrapped in (dict(type='RepeatDataset', times=2, dataset=inner),
                    dict(type='ConcatDataset', datasets=[inner, dict(inner, ann_file='x')])):
        cfg.test_dataloader.dataset = wrapped
        assert preprocessing_of(cfg, 'mmengine') == expected
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        inner, dict(inner, pipeline=[LOAD, dict(type='PackInputs')])])
    with pytest.raises(ConfigError, match='pipelines that differ'):
        preprocessing_of(cfg, 'mmengine')
    cfg.pop('test_dataloader')
    with pytest.raises(ConfigError, match='no test_dataloader.dataset with a pipeline'):
        preprocessing_of(cfg, 'mmengine')


def test_steps_given_as_classes_are_those_of_their_names():
    from mmcv.transforms import LoadImageFromFile, Resize
    named, classes = config_of('mmdet, as large as fits'), config_of('mmdet, as large as fits')
    steps = classes.test_dataloader.dataset.pipeline
    steps[0]['type'], steps[1]['type'] = LoadImageFromFile, Resize
    assert preprocessing_of(classes, 'mmengine') == preprocessing_of(named, 'mmengine')
    for step in named.test_dataloader.dataset.pipeline:
        step['type'] = f'mmdet.{step["type"]}'
    assert preprocessing_of(classes, 'mmengine') == preprocessing_of(named, 'mmengine')


@pytest.mark.parametrize('step, message', [
    (dict(type='TestTimeAug', transforms=[]), "'TestTimeAug'"),
    (dict(type='EfficientNetCenterCrop', crop_size=224), "'EfficientNetCenterCrop'"),
    (dict(type='Resize', scale=(9, 9), interpolation='area'), "interpolation='area'"),
    (dict(type='RandomFlip', prob=0.5), 'prob=0.5'),
    (dict(type='Pad', size=(9, 9), padding_mode='edge'), "padding_mode='edge'"),
    (dict(type='LoadImageFromFile', imdecode_backend='tifffile'), "imdecode_backend='tifffile'"),
    (dict(type='CenterCrop', crop_size=9, auto_pad=True), 'auto_pad=True'),
])
def test_what_cannot_be_followed_is_refused_by_name(step, message):
    cfg = config_of('mmdet, as large as fits')
    cfg.test_dataloader.dataset.pipeline.insert(1, step)
    with pytest.raises(ConfigError, match=message):
        preprocessing_of(cfg, 'mmengine')


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*/*.py'))[::4] + [
    ROOT / 'configs/classification/imagenet/lit_v2/mmpretrain/litv2-s_8xb128_in1k.py'],
    ids=lambda path: path.stem)
def test_configs_of_the_repository_are_followed(path):
    cfg = Config.fromfile(path)
    steps = preprocessing_of(cfg, 'mmengine')['steps']
    assert 'load' in steps[0] and any('normalize' in step for step in steps)
    assert any('resize' in step for step in steps) or 'digits' in path.stem


def test_a_model_without_mean_and_std_is_refused():
    cfg = config_of('mmseg')
    cfg.data_preprocessor = dict(type='SegDataPreProcessor')
    with pytest.raises(ConfigError, match='data_preprocessor has no mean and std'):
        preprocessing_of(cfg, 'mmengine')
    cfg.data_preprocessor = dict(type='TwoStream', mean=MEAN, std=STD)
    with pytest.raises(ConfigError, match='TwoStream'):
        preprocessing_of(cfg, 'mmengine')


def test_scores_of_the_exported_steps_equal_the_toolkits(tmp_path):
    """A tenth of a grey level moves no score by more than a thousandth."""
    from mmlit import LITv2Classifier

    from ..conftest import GOLDEN_ARCH
    torch.manual_seed(0)
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=5).eval()
    cfg = config_of('mmpretrain, edge')
    gradient = np.linspace(0, 255, 90 * 120 * 3).reshape(90, 120, 3)
    Image.fromarray(gradient.astype(np.uint8)).save(tmp_path / 'image.png')
    with torch.no_grad():
        ours, theirs = (model(torch.from_numpy(x)[None]).softmax(1) for x in (
            prepare(open_image(tmp_path / 'image.png'), preprocessing_of(cfg, 'mmengine')),
            by_toolkit(cfg, tmp_path / 'image.png')))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
