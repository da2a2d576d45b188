"""LITv2 through timm's own functions."""
import io

import pytest
import torch

import mmlit

timm = pytest.importorskip('timm', reason='timm is not installed')
mmlit_timm = pytest.importorskip('mmlit.timm_models')

from mmlit.errors import ArgumentError  # noqa: E402

from .conftest import GOLDEN_ARCH  # noqa: E402
from .test_litv2 import build, images  # noqa: E402


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
    torch.testing.assert_close(dense.norm3(maps[3]), expected[3])
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


@torch.no_grad()
@pytest.mark.parametrize('pool, features', [
    ('avg', 768), ('max', 768), ('avgmax', 768), ('catavgmax', 1536), ('fast', 768),
    ('fastavg', 768), ('fastmax', 768), ('fastavgmax', 768), ('fastcatavgmax', 1536)])
def test_every_pooling_of_timm(pool, features, x):
    model = timm.create_model('litv2_small', num_classes=3, global_pool=pool).eval()
    assert model(x).shape == (2, 3) and model.head.in_features == features
    maps = model.forward_features(x)
    pooled = model.forward_head(maps, pre_logits=True)
    mean, most = maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))
    name = pool.removeprefix('fast') or 'avg'
    expected = dict(avg=mean, max=most, avgmax=(mean + most) / 2,
                    catavgmax=torch.cat([mean, most], 1))[name]
    torch.testing.assert_close(pooled, expected)
    model.reset_classifier(5)  # keeps the pooling
    assert model(x).shape == (2, 5) and model.head.in_features == features
    with pytest.raises(AssertionError, match='Invalid pool type'):  # timm's own error
        model.reset_classifier(3, 'median')


# What timm's own tests do with each of its models (tests/test_models.py), on a tiny one.


def tiny(**kwargs):
    model = mmlit_timm.TimmLITv2(GOLDEN_ARCH, num_classes=5, **kwargs).eval()
    model.backbone.load_state_dict(build().state_dict())
    return model


SIZES = [(64, 96), (50, 75), (33, 130)]


def tracer_arguments() -> dict:
    from timm.models import get_notrace_functions, get_notrace_modules
    return dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions(),
                param_shapes_constant=True)


@pytest.mark.parametrize('kwargs', [dict(), dict(alpha=0.), dict(window_size=[0, 0, 4, 2]),
                                    dict(attention_types='HiLo', window_size=3)], ids=str)
def test_scripted_model_is_the_model_at_every_size(kwargs):
    model = mmlit_timm.TimmLITv2(GOLDEN_ARCH, num_classes=5, **kwargs).eval()
    model.backbone.load_state_dict(build(**kwargs).state_dict())
    scripted = torch.jit.script(model)
    assert list(scripted.state_dict()) == list(model.state_dict())
    assert type(model.backbone) is mmlit.LITv2  # script leaves the model as it was
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    for candidate in (scripted, torch.jit.load(buffer)):
        for size in SIZES:
            x = images(2, *size)
            torch.testing.assert_close(candidate(x), model(x), rtol=1e-5, atol=1e-5)


def test_scripted_model_has_the_gradients_of_the_model():
    model, x = tiny(), images(2, 50, 75).requires_grad_()
    grads = [torch.autograd.grad(m(x).square().sum(), x)[0] for m in (torch.jit.script(model),
                                                                      model)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_scripted_model_refuses_what_its_trace_would_let_pass():
    model = tiny()
    with pytest.raises(ArgumentError, match=r'call eval\(\) first'):
        torch.jit.script(model.train())
    scripted = torch.jit.script(model.eval())
    for shape, message in [((1, 3, 16, 64), 'images of 16x64 pixels are too small'),
                           ((1, 4, 64, 64), 'images have 4 channels')]:
        for candidate in (model, scripted):
            with pytest.raises((ArgumentError, torch.jit.Error), match=message):
                candidate(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match='is for inference'):
        scripted.train()(images(1, 64, 64))


def test_plain_classifier_is_scripted_as_well():
    model = mmlit.LITv2Classifier(GOLDEN_ARCH, num_classes=5).eval()
    scripted = torch.jit.script(model.fuse())
    for size in SIZES:
        x = images(2, *size)
        torch.testing.assert_close(scripted(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('trace', ['torch.fx', 'torchvision'])
def test_fx_graph_is_the_model_at_every_size(trace):
    model = tiny()
    if trace == 'torch.fx':
        graph = torch.fx.symbolic_trace(model)
    else:
        extraction = pytest.importorskip('torchvision.models.feature_extraction')
        nodes = extraction.get_graph_node_names(model, tracer_kwargs=tracer_arguments())
        extractor = extraction.create_feature_extractor(
            model, train_return_nodes=[nodes[0][-1]], eval_return_nodes=[nodes[1][-1]],
            tracer_kwargs=tracer_arguments())

        def graph(x):
            return next(iter(extractor(x).values()))
    for size in SIZES:
        x = images(2, *size)
        assert torch.equal(graph(x), model(x))
    scripted = torch.jit.script(graph if trace == 'torch.fx' else extractor)
    out = scripted(images(2, 50, 75))
    out = out if trace == 'torch.fx' else next(iter(out.values()))
    torch.testing.assert_close(out, model(images(2, 50, 75)), rtol=1e-5, atol=1e-5)


def test_fx_graph_trains():
    model = tiny().train()
    torch.fx.symbolic_trace(model)(images(2, 50, 75)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize('kind', ['getter', 'hook', 'fx'])
@pytest.mark.parametrize('indices', [(0, 1, 2, 3), (1, 3), (2, )])
def test_features_by_every_way_of_timm(kind, indices, pair, x):
    if kind == 'fx':
        pytest.importorskip('torchvision')
    from timm.models._features import FeatureGetterNet, FeatureHookNet
    from timm.models._features_fx import FeatureGraphNet
    build_net = dict(getter=FeatureGetterNet, hook=FeatureHookNet, fx=FeatureGraphNet)[kind]
    net = build_net(tiny(), out_indices=indices).eval()
    assert len(net(images(1, 64, 64))) == len(indices)
    maps = tiny().backbone.stage_maps(images(1, 50, 75), indices)
    for a, b in zip(net(images(1, 50, 75)), maps, strict=True):
        torch.testing.assert_close(a, b)
    by_name = timm.create_model('litv2_small', features_only=True, feature_cls=kind,
                                out_indices=indices).eval()
    assert [m.shape[1] for m in by_name(x)] == by_name.feature_info.channels()


@pytest.mark.parametrize('call', [
    lambda m, x: m(x), lambda m, x: m.forward_features(x), lambda m, x: m.forward_intermediates(x),
    lambda m, x: m.backbone(x), lambda m, x: m.backbone.stage_maps(x, (0, )),
    lambda m, x: torch.fx.symbolic_trace(m)(x)])
def test_small_images_are_refused_on_every_path(call):
    with pytest.raises(ArgumentError, match='images of 31x64 pixels are too small'):
        call(tiny(), torch.zeros(1, 3, 31, 64))
