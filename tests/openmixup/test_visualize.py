"""Pictures of an openmixup model's five best classes."""
import numpy as np
import pytest
import torch
from PIL import Image

from mmlit.errors import ConfigError
from mmlit.openmixup.trainer import build_model, load_config
from mmlit.visualization import draw_prediction, load_model

from .conftest import DEMO


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(build_model(load_config(DEMO)).state_dict(), tmp_path / 'model.pth')
    return tmp_path / 'model.pth'


@pytest.fixture
def image(tmp_path):
    Image.new('RGB', (20, 10), (255, 0, 0)).save(tmp_path / 'red.png')
    return tmp_path / 'red.png'


def test_five_best_classes(checkpoint, image, tmp_path, command_line):
    assert command_line('visualize.py', DEMO, checkpoint, image, '--out', tmp_path / 'out') is None
    picture = np.asarray(Image.open(tmp_path / 'out/red.png'))
    assert picture.shape == (480, 960 + 8 + 360, 3)
    assert np.all(picture[:, :960] == (255, 0, 0))
    bars = picture[:, 968:]
    assert np.all(bars[:, -1] == 255) and (bars < 100).all(axis=2).any()  # a margin, and text


@pytest.mark.parametrize('prefetch', [False, True])
def test_model_sees_what_validation_shows_it(checkpoint, image, prefetch):
    config, model = load_model(DEMO, checkpoint)
    if prefetch:
        config.data.val.update(prefetch=True, pipeline=config.data.val.pipeline[:1])
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    draw_prediction(config, model, image)
    assert seen[0].shape == (1, 3, 64, 64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert seen[0][0, :, 5, 5].numpy() == pytest.approx(((1, 0, 0) - mean) / std, rel=1e-5)


def seen_by(model, config, path):
    seen = []
    hook = model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    picture = draw_prediction(config, model, path)
    hook.remove()
    return seen[0][0].numpy(), picture


def test_exif_is_what_it_is_in_the_training(checkpoint, tmp_path):
    """openmixup's reader turns no image; by OpenCV it does, and calls blue red."""
    colours = Image.new('RGB', (40, 20), (0, 0, 255))
    colours.paste((255, 0, 0), (0, 0, 20, 20))
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / 'turned.jpg', exif=turned, quality=100)
    config, model = load_model(DEMO, checkpoint)
    x, picture = seen_by(model, config, tmp_path / 'turned.jpg')
    assert x[0, 30, 10] > 2 and x[0, 30, 50] < 0  # red on the left, as stored
    assert picture[240, 100, 0] > 250 and picture[240, 900, 2] > 250
    config.data.val.data_source.backend = 'disk'
    x, picture = seen_by(model, config, tmp_path / 'turned.jpg')
    assert x[2, 10, 30] > 2 and x[2, 50, 30] < 0  # above, in the third channel
    assert picture[100, 100, 0] > 250 and picture[900, 100, 2] > 250


def test_a_model_of_one_channel(image):
    config = load_config(DEMO)
    config.model.backbone.in_channels = 1
    config.data.val.pipeline = [
        dict(type='Grayscale'), dict(type='Resize', size=64), dict(type='ToTensor'),
        dict(type='Normalize', mean=[0.5], std=[0.5])]
    x, picture = seen_by(build_model(config).eval(), config, image)
    assert x.shape == (1, 64, 128) and x[0, 5, 5] == pytest.approx(76 / 127.5 - 1, abs=1e-5)
    assert np.all(picture[:, :960] == (255, 0, 0))


def test_a_model_without_one_score_for_each_class_is_refused(checkpoint, image, monkeypatch):
    config, model = load_model(DEMO, checkpoint)
    monkeypatch.setattr(model, 'forward', lambda *args, **kwargs: {'head0': torch.zeros(1, 3)})
    with pytest.raises(ConfigError, match='nothing to draw'):
        draw_prediction(config, model, image)


def test_pictures_that_are_there_are_kept(checkpoint, image, tmp_path, command_line):
    mine = tmp_path / 'out/red.png'
    mine.parent.mkdir()
    mine.write_text('mine')
    args = (DEMO, checkpoint, image, '--out', tmp_path / 'out')
    assert '--overwrite' in command_line('visualize.py', *args) and mine.read_text() == 'mine'
    assert command_line('visualize.py', *args, '--overwrite') is None
    assert Image.open(mine).size == (960 + 8 + 360, 480)
    assert 'is not a folder' in command_line('visualize.py', *args[:-1], mine)


def test_errors_write_nothing(checkpoint, image, tmp_path, command_line):
    def fails(*args):
        error = command_line('visualize.py', *args, '--out', out)
        assert error.startswith('error: ') and '\n' not in error and not out.exists()
        return error

    out = tmp_path / 'out'
    assert 'none.png' in fails(DEMO, checkpoint, image, tmp_path / 'none.png')
    assert 'cannot read the image' in fails(DEMO, checkpoint, checkpoint)
    torch.save({'state_dict': {'patch_embed.proj.weight': torch.zeros(1)}}, tmp_path / 'x.pth')
    assert 'x.pth' in fails(DEMO, tmp_path / 'x.pth', image)
    (tmp_path / 'other.py').write_text('train_dataloader = dict()\n')
    assert 'this process serves openmixup' in fails(tmp_path / 'other.py', checkpoint, image)
