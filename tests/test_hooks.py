"""Hooks on stages and norms see maps, and the gradients of maps: what Grad-CAM and others read."""
import pytest
import torch
from torch import nn

from mmlit import LITv2Classifier

from .conftest import GOLDEN_ARCH
from .test_litv2 import ALL, build, images

SIZE = (64, 96)


def classifier(**kwargs) -> LITv2Classifier:
    torch.manual_seed(0)
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=5, **kwargs).eval()
    model.backbone.load_state_dict(build(**kwargs).state_dict())
    nn.init.normal_(model.head.weight)
    return model


def cam_of(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391, eq. 1-2) of maps (B, C, H, W), unclipped."""
    return (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(1)


def tools_cam(model, target, x, reshape=lambda t: t) -> torch.Tensor:
    """What pytorch-grad-cam does: a forward hook, and in it one on the output's gradient."""
    seen = {}

    def hook(module, args, output):
        seen['map'] = output
        output.register_hook(lambda grad: seen.update(grad=grad))

    with target.register_forward_hook(hook):
        model(x)[:, 1].sum().backward()
    return cam_of(reshape(seen['map']), reshape(seen['grad'])).detach()


def right_cam(model, x, normed: bool) -> torch.Tensor:
    """The same of the last map, computed without hooks."""
    (stage_map, ) = model.backbone.stage_maps(x, (3, ))
    out = model.backbone.norm3(stage_map)
    logit = model.head(out.mean(dim=(2, 3)))[:, 1].sum()
    target = out if normed else stage_map
    return cam_of(target, torch.autograd.grad(logit, target)[0]).detach()


def to_map(tokens):
    return tokens.permute(0, 3, 1, 2)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('name, reshape', [('norm3', None), ('stages.3', None),
                                           ('stages.3.blocks', None),
                                           ('stages.3.blocks.0', to_map)])
def test_grad_cam_of_the_last_map(name, reshape, fused):
    model = classifier(init_values=0.5)
    if fused:
        model.fuse()
    x = images(2, *SIZE).requires_grad_()
    target = model.backbone.get_submodule(name)
    cam = tools_cam(model, target, x, reshape or (lambda t: t))
    expected = right_cam(model, x, normed=name == 'norm3')
    assert cam.shape == (2, 2, 3)
    torch.testing.assert_close(cam, expected)
    both = torch.stack([cam.flatten(), expected.flatten()])
    assert torch.corrcoef(both)[0, 1].item() == pytest.approx(1)


def test_grad_cam_of_a_stage_whose_map_is_read_twice():
    """By its output norm, and by the next stage: the gradient is the sum of both."""
    model = build(out_indices=ALL).eval()
    x, seen = images(1, *SIZE), {}
    handle = model.stages[1].register_forward_hook(
        lambda m, args, out: seen.update(map=out) or out.retain_grad())
    outs = model(x)
    handle.remove()
    sum(out.square().sum() for out in outs[1:]).backward()

    tokens = seen['map'].detach().permute(0, 2, 3, 1).requires_grad_()
    own = model.norm1(tokens.permute(0, 3, 1, 2)).square().sum()
    later = tokens
    for i in (2, 3):
        stage_map = model.stages[i](model.stages[i - 1].downsample(later))
        own = own + getattr(model, f'norm{i}')(stage_map).square().sum()
        later = stage_map.permute(0, 2, 3, 1)
    own.backward()
    torch.testing.assert_close(seen['map'].grad, tokens.grad.permute(0, 3, 1, 2))


@pytest.mark.parametrize('norm_indices', [ALL, (1, 2, 3), ()])
def test_hooks_see_the_maps_that_leave(norm_indices):
    model = build(out_indices=ALL, norm_indices=norm_indices).eval()
    seen, grads = {}, {}
    names = [*(f'stages.{i}' for i in ALL), *(f'norm{i}' for i in norm_indices)]
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: out}))
        module.register_full_backward_hook(
            lambda m, given, grad, name=name: grads.update({name: grad[0]}))
    outs = model(images(2, 50, 75))
    for i, out in enumerate(outs):
        assert seen[f'stages.{i}'].shape == out.shape
        assert out.is_contiguous()
        if i in norm_indices:
            assert seen[f'norm{i}'].data_ptr() == out.data_ptr()
        else:
            assert torch.equal(seen[f'stages.{i}'], out)
    sum(out.sum() for out in outs).backward()
    assert set(grads) == set(names)
    for name in names:
        assert grads[name].shape == seen[name].shape
        assert grads[name].abs().sum() > 0


@torch.no_grad()
def test_a_hook_may_replace_the_map():
    """In whatever layout of memory: the next stage reads what the hook returned."""
    model = build(out_indices=ALL).eval()
    x = images(1, 50, 75)
    before = model(x)
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, out: out.contiguous().clone())
    for a, b in zip(model(x), before, strict=True):
        torch.testing.assert_close(a, b)
    model.stages[0].register_forward_hook(lambda m, args, out: torch.zeros_like(out))
    assert not torch.equal(model(x)[3], before[3])


def test_output_norms_are_layer_norms_for_whoever_asks():
    """For mmengine's norm_decay_mult, say; weights keep their names."""
    model = build(out_indices=ALL)
    for i, dim in enumerate(GOLDEN_ARCH['embed_dims']):
        norm = getattr(model, f'norm{i}')
        assert isinstance(norm, nn.LayerNorm)
        assert set(norm.state_dict()) == {'weight', 'bias'} and norm.weight.shape == (dim, )


@torch.no_grad()
def test_feature_extractor_of_torchvision():
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model = build(out_indices=ALL).eval()
    names = {f'stages.{i}.blocks': f's{i}' for i in ALL} | {f'norm{i}': f'n{i}' for i in ALL}
    maps = extraction.create_feature_extractor(model, names)(images(1, 50, 75))
    outs = model(images(1, 50, 75))
    raw = model.stage_maps(images(1, 50, 75), ALL)
    for i in ALL:
        assert torch.equal(maps[f'n{i}'], outs[i])
        assert torch.equal(maps[f's{i}'], raw[i])
