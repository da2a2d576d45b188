"""Pictures of an openmixup model's five best classes."""
import numpy as np
import pytest
import torch
from PIL import Image

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
    assert '.envs/openmmlab' in fails(tmp_path / 'other.py', checkpoint, image)
