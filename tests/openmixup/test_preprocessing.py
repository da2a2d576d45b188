"""Images as an exported model's input, against openmixup's own pipelines."""
import sys

import numpy as np
import pytest
import torch
from mmcv import Config
from PIL import Image
from torchvision.transforms import InterpolationMode

from mmlit.deployment.preprocessing import preprocessing_of
from mmlit.errors import ConfigError

from .conftest import DEMO, ROOT

sys.path.insert(0, str(ROOT / 'tools'))
from prepare_images import open_image, prepare, remarks  # noqa: E402

IMAGENET = ROOT / 'configs/classification/imagenet/lit_v2/lit_v2_small_8xb128_cos_fp16_ep300.py'
TO_TENSOR = [dict(type='ToTensor'), dict(type='Normalize', mean=[0.5, 0.4, 0.3],
                                         std=[0.2, 0.3, 0.4])]
PIPELINES = {
    'digits': Config.fromfile(str(DEMO)).test_pipeline,
    'imagenet': Config.fromfile(str(IMAGENET)).test_pipeline,
    'crop beyond the image': [dict(type='CenterCrop', size=(301, 97)), *TO_TENSOR],
    'bilinear, at most 100': [dict(type='Resize', size=64, interpolation=2, max_size=100),
                              dict(type='CenterCrop', size=[61]), *TO_TENSOR],
    'by name': [dict(type='Resize', size=[50, 60], interpolation=InterpolationMode.LANCZOS),
                *TO_TENSOR],
    'no size': TO_TENSOR,
    'not normalised': TO_TENSOR[:1],
    'grey': [dict(type='Grayscale', num_output_channels=1), dict(type='Resize', size=40),
             dict(type='ToTensor'), dict(type='Normalize', mean=[0.5], std=[0.2])],
}


def config_of(pipeline, **data):
    source = dict(type='ImageList', **data.pop('data_source', {}))
    dataset = dict(type='ClassificationDataset', data_source=source, pipeline=pipeline, **data)
    return Config(dict(data=dict(val=dataset), img_norm_cfg=dict(mean=[0.1, 0.2, 0.3],
                                                                 std=[0.4, 0.5, 0.6])))


def by_openmixup(image, pipeline):
    from openmixup.datasets.builder import build_from_cfg
    from openmixup.datasets.registry import PIPELINES
    from torchvision.transforms import Compose
    return Compose([build_from_cfg(dict(step), PIPELINES) for step in pipeline])(image)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize('size', [(300, 421), (517, 260), (64, 64), (1, 1)])
@pytest.mark.parametrize('name', PIPELINES)
def test_every_pipeline_is_followed(name, size):
    ours = prepare(noise(*size), preprocessing_of(config_of(PIPELINES[name]), 'openmixup'))
    expected = by_openmixup(noise(*size), PIPELINES[name])
    torch.testing.assert_close(torch.from_numpy(ours), expected, rtol=1e-5, atol=1e-5)


def test_the_pipeline_is_that_of_tests_whatever_it_is_called():
    cfg = config_of([dict(type='Resize', size=40), *TO_TENSOR])
    cfg.test_pipeline = PIPELINES['imagenet']  # a variable that nothing uses
    assert prepare(noise(80, 90), preprocessing_of(cfg, 'openmixup')).shape == (3, 40, 45)
    cfg.data.test = dict(cfg.data.val, pipeline=[dict(type='Resize', size=20), *TO_TENSOR])
    assert prepare(noise(80, 90), preprocessing_of(cfg, 'openmixup')).shape == (3, 20, 22)


def test_prefetch_normalises_by_img_norm_cfg():
    ours = prepare(noise(40, 50), preprocessing_of(config_of([], prefetch=True), 'openmixup'))
    steps = [dict(type='ToTensor'),
             dict(type='Normalize', mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])]
    torch.testing.assert_close(torch.from_numpy(ours), by_openmixup(noise(40, 50), steps),
                               rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('step, message', [
    (dict(type='CenterCropForEfficientNet', size=224), 'CenterCropForEfficientNet'),
    (dict(type='FiveCrop', size=224), 'FiveCrop'),
    (dict(type='Resize', size=224, interpolation=9), 'interpolation=9'),
    (dict(type='CenterCrop', size=224, padding=3), 'padding=3'),
])
def test_what_cannot_be_followed_is_refused_by_name(step, message):
    with pytest.raises(ConfigError, match=message):
        preprocessing_of(config_of([step, *TO_TENSOR]), 'openmixup')


@pytest.fixture
def odd_images(tmp_path):
    """Files whose pixels depend on who reads them."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(
        8, 0).repeat(8, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / 'plain.png')
    colours.save(tmp_path / 'turned.jpg', exif=turned, quality=95)
    Image.fromarray(rng.integers(0, 65536, (40, 50)).astype(np.uint16)).save(tmp_path / 'deep.png')
    colours.quantize(20).save(tmp_path / 'palette.png', transparency=3)
    alpha = colours.convert('RGBA')
    alpha.putalpha(Image.linear_gradient('L').resize(colours.size))
    alpha.save(tmp_path / 'alpha.png')
    alpha.convert('LA').save(tmp_path / 'grey_alpha.png')
    colours.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=95)
    colours.convert('L').save(tmp_path / 'grey.jpg', quality=95)
    colours.convert('1').save(tmp_path / 'bits.png')
    return tmp_path


@pytest.mark.parametrize('backend', ['pillow', 'disk'])
def test_odd_images_are_read_as_in_the_training(backend, odd_images):
    from openmixup.datasets.data_sources import ImageList
    files = sorted(odd_images.iterdir())
    (odd_images / 'list.txt').write_text('\n'.join(f.name for f in files))
    source = ImageList(root=str(odd_images), list_file=str(odd_images / 'list.txt'),
                       file_client_args=dict(backend=backend))
    data_source = dict(file_client_args=dict(backend=backend))
    settings = preprocessing_of(config_of(TO_TENSOR, data_source=data_source), 'openmixup')
    for i, path in enumerate(files):
        ours = prepare(open_image(path), settings)
        expected = by_openmixup(source.get_sample(i), TO_TENSOR).numpy()
        assert ours.shape == expected.shape, path.name
        # Decoders of JPEG may differ by a level or two; OpenCV's of CMYK rounds otherwise.
        levels = np.abs(ours - expected).max() * 0.4 * 255
        assert levels < (0.01 if path.suffix == '.png' or backend == 'pillow' else 3), path.name
    said = {path.name: remarks(open_image(path), settings) for path in files}
    surprising = {'turned.jpg', 'deep.png'} if backend == 'pillow' else set()
    assert {name for name, remark in said.items() if remark} == surprising
