"""LITv2 through timm's own functions."""
import pytest
import torch

import mmlit

timm = pytest.importorskip('timm', reason='timm is not installed')
mmlit_timm = pytest.importorskip('mmlit.timm_models')

from mmlit.errors import ArgumentError  # noqa: E402


@pytest.fixture(scope='module')
def pair():
    """A model of timm's, and mmlit's with the same weights."""
    torch.manual_seed(0)
    model = timm.create_model('litv2_small', num_classes=10).eval()
    ours = mmlit.litv2_small(num_classes=10).eval()
    ours.load_state_dict(model.state_dict())
    return model, ours


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_is_listed():
    assert {'litv2_small', 'litv2_medium', 'litv2_base'} <= set(timm.list_models('litv2*'))
    assert timm.list_models('litv2_base*', pretrained=True) == ['litv2_base.in1k',
                                                                'litv2_base.in1k_384']
    cfg = timm.get_pretrained_cfg('litv2_base.in1k_384')
    assert cfg.input_size == (3, 384, 384) and cfg.url.endswith('litv2_b_384.pth')


@torch.no_grad()
def test_forward(pair, x):
    model, ours = pair
    assert torch.equal(model(x), ours(x))
    features = model.forward_features(x)
    assert torch.equal(features, ours.backbone(x)[-1])
    assert torch.equal(model.forward_head(features), ours(x))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean(dim=(2, 3)))
    assert model.get_classifier() is model.head


@torch.no_grad()
def test_features_only(pair, x):
    model, ours = pair
    dense = mmlit.LITv2('small', out_indices=(0, 1, 2, 3), norm_indices=(3, )).eval()
    dense.load_state_dict(ours.backbone.state_dict())
    expected = dense(x)
    features = timm.create_model('litv2_small', features_only=True).eval()
    features.model.load_state_dict(model.state_dict(), strict=False)
    assert features.feature_info.channels() == [96, 192, 384, 768]
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    maps = features(x)
    for a, b in zip(maps[:3], expected[:3], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(dense.norm3(maps[3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                               expected[3])
    two = timm.create_model('litv2_small', features_only=True, out_indices=(0, 1)).eval()
    assert len(two.model.backbone.stages) == 2
    assert [m.shape[1] for m in two(x)] == [96, 192]


@torch.no_grad()
def test_intermediates(pair, x):
    model, _ = pair
    last, maps = model.forward_intermediates(x, indices=[1, 3], norm=True, output_fmt='NHWC')
    assert torch.equal(last, model.forward_features(x))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 12, 192), (2, 2, 3, 768)]
    assert torch.equal(maps[1].permute(0, 3, 1, 2), last)
    (only, ) = model.forward_intermediates(x, indices=[0], stop_early=True,
                                           intermediates_only=True)
    assert only.shape == (2, 96, 16, 24)
    with pytest.raises(ArgumentError, match='output_fmt'):
        model.forward_intermediates(x, output_fmt='NLC')


@torch.no_grad()
def test_classifier_changes(x):
    model = timm.create_model('litv2_small', num_classes=0).eval()
    assert model(x).shape == (2, 768)
    model.reset_classifier(5)
    assert model(x).shape == (2, 5) and model.num_classes == 5
    model.reset_classifier(0, '')
    assert model(x).shape == (2, 768, 2, 3)
    with pytest.raises(ArgumentError, match='needs global_pool'):
        model.reset_classifier(3)
    with pytest.raises(ArgumentError, match="global_pool='max'"):
        model.reset_classifier(3, 'max')
    assert timm.create_model('litv2_small', in_chans=1)(x[:, :1]).shape == (2, 1000)


def test_gradient_checkpointing(x):
    torch.manual_seed(0)
    model = timm.create_model('litv2_small', num_classes=3).train()
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        loss = model(x).square().mean()
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_layer_groups(pair):
    from timm.optim import param_groups_layer_decay
    groups = param_groups_layer_decay(pair[0], layer_decay=0.9)
    assert len({group['lr_scale'] for group in groups}) > 12
    assert sum(len(group['params']) for group in groups) == len(list(pair[0].parameters()))


@torch.no_grad()
def test_official_weights(tmp_path, monkeypatch, pair, x):
    from mmlit.checkpoints import convert
    from mmlit.checkpoints.exporting import to_official
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    ours = mmlit.litv2_small().eval()
    official = to_official(*convert(ours.state_dict())[1:])
    assert 'layers.0.blocks.0.mlp.fc1.weight' in official['model']
    torch.save(official, tmp_path / 'checkpoints/litv2_s.pth')
    model = timm.create_model('litv2_small.in1k', pretrained=True).eval()
    assert torch.equal(model(x), ours(x))
    gray = timm.create_model('litv2_small', pretrained=True, in_chans=1, num_classes=4)
    assert gray.head.out_features == 4
