"""Whole detectors and segmentors of the official release, in mmdet's and mmseg's models."""
import pytest
import torch

from mmlit import load_checkpoint
from mmlit.checkpoints import convert
from mmlit.checkpoints.exporting import TARGETS
from mmlit.errors import CheckpointError

from .test_dense import build

SIZE = (64, 96)


@pytest.fixture
def official(tmp_path):
    """A model with random weights, and a file with its weights in the official layout."""

    def make(name: str):
        torch.manual_seed(0)
        model = build(name).eval()
        state = TARGETS['official'](*convert(model.state_dict())[1:])
        path = tmp_path / 'official.pth'
        torch.save({**state, 'meta': dict(epoch=12)}, path)
        return model, path

    return make


@torch.no_grad()
@pytest.mark.parametrize('name', ['retinanet', 'mask-rcnn', 'fpn'])
def test_whole_models(official, name):
    model, path = official(name)
    names = torch.load(path)['state_dict']
    assert any(k.startswith('backbone.layers.0.blocks.0.mlp.') for k in names)
    torch.manual_seed(1)
    fresh = build(name).eval()
    load_checkpoint(fresh, path, strict=True)
    for k, v in model.state_dict().items():
        assert torch.equal(v, fresh.state_dict()[k]), k
    x = torch.randn(1, 3, *SIZE)
    for a, b in zip(fresh.extract_feat(x), model.extract_feat(x), strict=True):
        assert torch.equal(a, b)


def test_a_detector_starts_a_segmentor(official):
    """Of a RetinaNet, a segmentor takes the backbone and says what it left."""
    model, path = official('retinanet')
    segmentor = build('fpn')
    load_checkpoint(segmentor, path)
    weight = 'backbone.stages.2.blocks.1.attn.l_q.weight'
    assert torch.equal(segmentor.state_dict()[weight], model.state_dict()[weight])
    with pytest.raises(CheckpointError, match='does not fit'):
        load_checkpoint(segmentor, path, strict=True)
