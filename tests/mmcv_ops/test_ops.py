"""The stand-ins for mmcv's compiled operators, against these and against plain definitions."""
import importlib
import importlib.util
import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmlit.benchmark.mmcv_ops import calling
from mmlit.errors import MMLitError
from mmlit.mmcv_ops import focal, supply_extension, torchvision_ops
from mmlit.mmcv_ops.extension import module

from .cases import CASES, GOLDEN, numbers, rois

pytestmark = pytest.mark.skipif(importlib.util.find_spec('mmcv') is None,
                                reason='mmcv is not installed')


@pytest.fixture
def ours():
    """mmcv's own functions, calling the stand-ins even where mmcv is compiled."""
    supply_extension()
    import mmcv.ops
    with calling(module()):
        yield mmcv.ops


@pytest.fixture(params=['plain', 'torchvision'])
def way(request, monkeypatch):
    """Each way to compute an operator for which torchvision has one too, whichever is quicker."""
    devices = () if request.param == 'plain' else ('cpu', 'cuda')
    monkeypatch.setattr(torchvision_ops, 'DEVICES',
                        dict.fromkeys(torchvision_ops.DEVICES, devices))
    if devices and torchvision_ops.torchvision_operator('nms', torch.zeros(0)) is None:
        pytest.skip('torchvision is absent, or its library does not load beside this torch')


TORCHVISION = ('nms', 'roi_align', 'deform_conv', 'modulated_deform_conv')


@pytest.mark.parametrize('name', [name for name in CASES if name.startswith(TORCHVISION)])
def test_equals_the_compiled_operator_both_ways(name, ours, way):
    check_golden(name)


@pytest.mark.parametrize('name', [name for name in CASES if not name.startswith(TORCHVISION)])
def test_equals_the_compiled_operator(name, ours):
    check_golden(name)


def check_golden(name):
    with np.load(GOLDEN) as golden:
        expected = {key[len(name) + 1:]: torch.from_numpy(golden[key]) for key in golden.files
                    if key.startswith(f'{name}/')}
    got = CASES[name]()
    assert expected and got.keys() == expected.keys()
    for key, theirs in expected.items():
        tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3}.get(
            theirs.dtype, 0.)
        scale = theirs.abs().max().item() if theirs.numel() else 0.
        torch.testing.assert_close(got[key], theirs, rtol=tolerance, atol=tolerance * scale)


def test_multi_scale_deformable_attention_is_grid_sampling(ours):
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )
    shapes = torch.tensor([[7, 5], [4, 3], [1, 2]])
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    results = []
    for run in ('ours', 'plain'):
        value, weights = numbers(2, 49, 3, 4).requires_grad_(), numbers(2, 6, 3, 3, 2, seed=1)
        places = (numbers(2, 6, 3, 3, 2, 2, seed=2) * 0.5 + 0.5).requires_grad_()
        weights = weights.softmax(-1).requires_grad_()
        out = (MultiScaleDeformableAttnFunction.apply(value, shapes, starts, places, weights, 64)
               if run == 'ours' else
               multi_scale_deformable_attn_pytorch(value, shapes, places, weights))
        out.backward(numbers(*out.shape, seed=9))
        results.append((out.detach(), value.grad, places.grad, weights.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_roi_pool_takes_the_maximum_of_each_part(ours):
    x, found = numbers(2, 3, 13, 17).requires_grad_(), rois(12, 2, 40, 30)
    out = ours.roi_pool(x, found, (3, 2), 0.4)
    expected = torch.zeros_like(out)
    for n, (b, x1, y1, x2, y2) in enumerate(found.tolist()):
        x1, y1, x2, y2 = x1 * 0.4, y1 * 0.4, (x2 + 1) * 0.4, (y2 + 1) * 0.4
        for i in range(3):
            for j in range(2):
                top, bottom = (np.clip(f(y1 + k * (y2 - y1) / 3), 0, 13).astype(int)
                               for f, k in ((np.floor, i), (np.ceil, i + 1)))
                left, right = (np.clip(f(x1 + k * (x2 - x1) / 2), 0, 17).astype(int)
                               for f, k in ((np.floor, j), (np.ceil, j + 1)))
                part = x[int(b), :, top:bottom, left:right]
                if part.numel():
                    expected[n, :, i, j] = part.amax(dim=(1, 2))
    torch.testing.assert_close(out, expected)
    weights = numbers(*out.shape, seed=3)
    ours_grad, = torch.autograd.grad(out, x, weights, retain_graph=True)
    torch.testing.assert_close(ours_grad, torch.autograd.grad(expected, x, weights)[0])


@pytest.mark.parametrize('ratio', [0, 2])
def test_deformable_roi_pooling_is_roi_align_of_moved_boxes(ours, ratio):
    x, found = numbers(2, 3, 13, 17), rois(12, 2, 40, 30)
    plain = ours.deform_roi_pool(x, found, None, (3, 2), 0.4, ratio, 0.1)
    torch.testing.assert_close(plain, ours.roi_align(x, found, (3, 2), 0.4, ratio, 'avg', True))
    offset = numbers(12, 2, seed=1).view(12, 2, 1, 1).expand(-1, -1, 3, 2).contiguous()
    moved, sides = found.clone(), found[:, 3:] - found[:, 1:3]
    moved[:, 1:] += 0.1 * (sides * offset[..., 0, 0]).repeat(1, 2)
    torch.testing.assert_close(ours.deform_roi_pool(x, found, offset, (3, 2), 0.4, ratio, 0.1),
                               ours.roi_align(x, moved, (3, 2), 0.4, ratio, 'avg', True),
                               rtol=1e-4, atol=1e-5)


def test_gradients_of_deformable_roi_pooling(ours):
    found, offset = rois(5, 2, 7, 6).double(), numbers(5, 2, 2, 3, seed=1, **DOUBLE)
    inputs = [numbers(2, 2, 6, 7, **DOUBLE).requires_grad_(), offset.requires_grad_()]
    assert gradcheck(lambda x, o: ours.deform_roi_pool(x, found, o, (2, 3), 1., 2, 0.1), inputs)
    x = inputs[0].detach().requires_grad_()
    ours.deform_roi_pool(x, found[:0], None, (2, 3)).sum().backward()
    assert x.grad.abs().max() == 0


@pytest.mark.parametrize('shape', [(4, 3, 5, 6), (1, 3, 1, 2)])
def test_synchronised_batch_norm_of_one_process_is_batch_norm(ours, shape):
    from mmcv.ops.sync_bn import SyncBatchNormFunction
    results = []
    for run in ('ours', 'plain'):
        x = numbers(*shape).requires_grad_()
        weight, bias = (numbers(3, seed=seed).requires_grad_() for seed in (1, 2))
        mean, var = torch.zeros(3), torch.ones(3)
        out = (SyncBatchNormFunction.apply(x, mean, var, weight, bias, 0.1, 1e-5, None, 1,
                                           'default')
               if run == 'ours' else F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5))
        out.backward(numbers(*shape, seed=9))
        results.append((out.detach(), mean, var, x.grad, weight.grad, bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [2.0, 0.5])
def test_sigmoid_focal_loss_is_its_formula(ours, weighted, gamma):
    x, target = numbers(9, 4).double().requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 4, 0, 2, 1])
    weight = torch.tensor([1., 2., 3., 0.5], dtype=torch.float64) if weighted else None
    one_hot = F.one_hot(target, 5)[:, :4].double()
    p = x.sigmoid()
    p_t, alpha_t = (one_hot * a + (1 - one_hot) * b for a, b in ((p, 1 - p), (0.3, 0.7)))
    expected = -alpha_t * (1 - p_t)**gamma * p_t.log()
    if weighted:
        expected = expected * weight[target.clamp(max=3)].unsqueeze(1)
    got = ours.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(got, expected)
    for reduction, whole in (('sum', expected.sum()), ('mean', expected.sum() / 9)):
        loss = ours.sigmoid_focal_loss(x, target, gamma, 0.3, weight, reduction)
        torch.testing.assert_close(torch.autograd.grad(loss, x),
                                   torch.autograd.grad(whole, x, retain_graph=True))


def test_softmax_focal_loss_is_its_formula(ours):
    x, target = numbers(7, 5).double().requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 4, 0])
    p = x.softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
    expected = (-0.25 * (1 - p)**2 * p.log()).mean()
    got = ours.softmax_focal_loss(x.clone(), target, 2.0, 0.25, None, 'mean')
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x))


def test_focal_losses_of_extreme_logits_are_finite():
    x, target = torch.tensor([[200., -200.]]), torch.tensor([1])
    out, grad = torch.empty(1, 2), torch.empty(1, 2)
    focal.sigmoid_focal_loss_forward(x, target, x.new_empty(0), out, 2., 0.25)
    focal.sigmoid_focal_loss_backward(x, target, x.new_empty(0), grad, 2., 0.25)
    assert out.isfinite().all() and grad.isfinite().all() and out.min() > 10


@pytest.mark.parametrize('naive', [False, True])
@pytest.mark.parametrize('k, groups, scale', [(5, 1, 2), (3, 2, 3), (1, 1, 1)])
def test_carafe_is_a_weighted_sum_of_each_neighbourhood(ours, naive, k, groups, scale):
    B, C, H, W = 2, 4, 3, 5
    x = numbers(B, C, H, W).requires_grad_()
    masks = numbers(B, groups * k * k, H * scale, W * scale, seed=1).requires_grad_()
    near = F.unfold(x, k, padding=k // 2).view(B, groups, C // groups, k * k, H, W)
    near = near.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    expected = (near * masks.view(B, groups, 1, k * k, H * scale, W * scale)).sum(3).flatten(1, 2)
    got = ours.carafe(x, masks, k, groups, scale)
    torch.testing.assert_close(got, expected)
    weights = numbers(*got.shape, seed=2)
    torch.testing.assert_close(torch.autograd.grad(got, (x, masks), weights),
                               torch.autograd.grad(expected, (x, masks), weights))
    if naive:  # mmcv allows no backward pass of it on a CPU
        torch.testing.assert_close(ours.carafe_naive(x, masks, k, groups, scale), expected)


def test_masked_convolution_is_convolution_at_some_places(ours):
    layer = ours.MaskedConv2d(3, 4, 3, padding=1)
    x, mask = numbers(1, 3, 6, 7), numbers(1, 6, 7, seed=1) > 0
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1) * mask
    torch.testing.assert_close(layer(x, mask.float()), expected)
    assert layer(x, torch.zeros(1, 6, 7)).abs().max() == 0


def test_overlaps_of_boxes(ours):
    bbox_overlaps = module().bbox_overlaps
    a, b = torch.tensor([[0., 0., 2., 2.], [1., 1., 3., 2.]]), torch.tensor([[0., 0., 1., 2.]])
    ious, iofs, paired = torch.empty(2, 1), torch.empty(2, 1), torch.empty(2)
    bbox_overlaps(a, b, ious, 0, False, 0)
    bbox_overlaps(a, b, iofs, 1, False, 0)
    bbox_overlaps(a, a.flip(0), paired, 0, True, 0)
    torch.testing.assert_close(ious, torch.tensor([[0.5], [0.]]))
    torch.testing.assert_close(iofs, torch.tensor([[0.5], [0.]]))
    torch.testing.assert_close(paired, torch.tensor([0.2, 0.2]))


DOUBLE = dict(dtype=torch.float64)


@pytest.mark.parametrize('mode, ratio', [('avg', 0), ('avg', 2), ('max', 2)])
def test_gradients_of_roi_align(ours, way, mode, ratio):
    found = rois(5, 2, 7, 6).double()
    assert gradcheck(lambda x: ours.roi_align(x, found, (2, 3), 1., ratio, mode, True),
                     numbers(2, 2, 6, 7, **DOUBLE).requires_grad_())


def test_gradients_of_deformable_convolutions(ours, way):
    x, offset = numbers(2, 4, 5, 4, **DOUBLE), numbers(2, 16, 2, 2, seed=1, **DOUBLE)
    weight, mask = numbers(2, 2, 2, 2, seed=2, **DOUBLE), numbers(2, 8, 2, 2, seed=3, **DOUBLE)
    inputs = [t.requires_grad_() for t in (x, offset, weight, mask)]
    assert gradcheck(lambda x, o, w: ours.deform_conv2d(x, o, w, 2, 0, 1, 2, 2), inputs[:3])
    assert gradcheck(lambda x, o, w, m: ours.modulated_deform_conv2d(x, o, m, w, None, 2, 0, 1, 2,
                                                                     2), inputs)


def test_gradients_of_carafe_and_attention_masks(ours):
    x, masks = numbers(1, 2, 2, 3, **DOUBLE), numbers(1, 9, 4, 6, seed=1, **DOUBLE)
    assert gradcheck(lambda x, m: ours.carafe(x, m, 3, 1, 2),
                     (x.requires_grad_(), masks.requires_grad_()))
    entries = numbers(1, 9, 3, 2, **DOUBLE).requires_grad_()
    assert gradcheck(ours.PSAMask('collect', (3, 3)), entries)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded(ours, way, dtype):
    x, found = numbers(1, 4, 9, 9), rois(6, 1, 9, 9)
    offset, weight = numbers(1, 18, 9, 9, seed=1).to(dtype), numbers(4, 4, 3, 3, seed=2).to(dtype)
    for wide, half in [
            (ours.roi_align(x.to(dtype).float(), found, 3), ours.roi_align(x.to(dtype), found, 3)),
            (ours.deform_conv2d(x.to(dtype).float(), offset.float(), weight.float(), 1, 1),
             ours.deform_conv2d(x, offset, weight, 1, 1))]:
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), wide, rtol=0.02, atol=0.05)


def test_roi_align_of_an_empty_batch(ours):
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    ours.roi_align(x, torch.zeros(0, 5), 3).sum().backward()
    assert x.grad.shape == x.shape


def test_nms_of_boxes_without_area_or_order(ours):
    found = torch.tensor([[1., 1., 1., 1.], [1., 1., 1., 1.], [0., 0., 4., 4.]])
    _, kept = ours.nms(found, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    assert kept.tolist() == [0, 1, 2]  # 0 / 0 is no overlap


# What mmdet 3.3, mmseg 1.2 and mmpretrain 1.2 import, or name in a config, but for rotated boxes.
USERS = ('bbox', 'carafe', 'deform_conv', 'deform_roi_pool', 'focal_loss', 'masked_conv',
         'modulated_deform_conv', 'multi_scale_deform_attn', 'nms', 'psa_mask', 'roi_align',
         'roi_pool', 'sync_bn')


@pytest.mark.parametrize('name', USERS)
def test_every_operator_that_detectors_and_segmentors_call_is_there(ours, name):
    source = inspect.getsource(importlib.import_module(f'mmcv.ops.{name}'))
    called = set(re.findall(r'ext_module\.(\w+)', source)) - {'nms_rotated', 'nms_quadri'}
    assert called and called <= vars(module()).keys()


def test_an_operator_that_is_missing_says_so_when_called():
    missing = module().points_in_boxes_cpu_forward
    with pytest.raises(MMLitError, match='points_in_boxes_cpu_forward.* mmcv(-full)?=='):
        missing(torch.zeros(1))
