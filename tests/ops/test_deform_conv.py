import math

import pytest
import torch
import torch.nn.functional as F

from mmlit.ops import deform_conv2d

from ..conftest import needs_torch


def reference(x, offset, weight, bias, stride=1, padding=0, dilation=1):
    """The definition, one sample at a time; float64 throughout."""
    B, H, W, C = x.shape
    C_out, _, kh, kw = weight.shape
    H_out, W_out = offset.shape[1:3]
    out = torch.zeros(B, H_out, W_out, C_out, dtype=torch.float64)

    def pixel(b, row, col):
        inside = 0 <= row < H and 0 <= col < W
        return x[b, row, col].double() if inside else torch.zeros(C, dtype=torch.float64)

    for b in range(B):
        for i in range(H_out):
            for j in range(W_out):
                acc = torch.zeros(C_out, dtype=torch.float64) if bias is None else bias.double()
                for tap in range(kh * kw):
                    dy, dx = offset[b, i, j, 2 * tap:2 * tap + 2].tolist()
                    y = i * stride - padding + tap // kw * dilation + dy
                    z = j * stride - padding + tap % kw * dilation + dx
                    top, left = math.floor(y), math.floor(z)
                    value = sum(
                        (1 - abs(y - row)) * (1 - abs(z - col)) * pixel(b, row, col)
                        for row in (top, top + 1) for col in (left, left + 1))
                    acc = acc + weight[:, :, tap // kw, tap % kw].double() @ value
                out[b, i, j] = acc
    return out


def case(kernel=(2, 2), stride=1, padding=0, dilation=1, size=(5, 7), batch=2, scale=2.,
         dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    H_out, W_out = ((n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
                    for n, k in zip(size, kernel, strict=True))
    tensors = [randn(batch, *size, 3), randn(batch, H_out, W_out, 2 * math.prod(kernel)) * scale,
               randn(4, 3, *kernel), randn(4)]
    return tensors, dict(stride=stride, padding=padding, dilation=dilation)


GEOMETRIES = [
    dict(stride=2),  # token merging
    dict(stride=2, size=(4, 6)),
    dict(stride=2, size=(2, 2), batch=1),
    dict(stride=2, size=(3, 2), batch=5),
    dict(size=(1, 1), padding=1),
    dict(kernel=(3, 3), padding=1),
    dict(kernel=(3, 3), stride=2, padding=2, dilation=2),
    dict(kernel=(3, 3), stride=3, padding=1, size=(7, 6)),
    dict(kernel=(1, 3), dilation=2, size=(3, 6)),
    dict(kernel=(3, 1), size=(4, 2), batch=3),
]


@pytest.mark.parametrize('scale', [0.3, 2., 20.])  # the last reads mostly outside the map
@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_equals_the_definition(geometry, scale):
    tensors, kwargs = case(**geometry, scale=scale)
    torch.testing.assert_close(deform_conv2d(*tensors, **kwargs), reference(*tensors, **kwargs))


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_zero_offsets_are_a_convolution(geometry):
    (x, offset, weight, bias), kwargs = case(**geometry)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, **kwargs).permute(0, 2, 3, 1)
    actual = deform_conv2d(x, torch.zeros_like(offset), weight, bias, **kwargs)
    torch.testing.assert_close(actual, expected)
    actual = deform_conv2d(x, torch.zeros_like(offset), weight, **kwargs)
    torch.testing.assert_close(actual, expected - bias)


@pytest.mark.parametrize('dy, dx', [(1, 0), (0, 1), (-1, 2), (0.5, 0), (-0.25, 0.75)])
def test_every_tap_at_one_offset_shifts_the_map(dy, dx):
    """Order of the offsets: (dy, dx), in units of pixels."""
    (x, offset, weight, bias), kwargs = case(stride=2, size=(8, 8))
    offset = torch.tensor([dy, dx], dtype=x.dtype).repeat(*offset.shape[:3], 4)
    steps = torch.arange(8, dtype=x.dtype)
    y, z = torch.meshgrid(steps + dy, steps + dx, indexing='ij')
    grid = (torch.stack([z, y], dim=-1) / 7 * 2 - 1).expand(2, 8, 8, 2)
    shifted = F.grid_sample(x.permute(0, 3, 1, 2), grid, align_corners=True)
    expected = F.conv2d(shifted, weight, bias, stride=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, **kwargs), expected)


def test_each_tap_has_its_own_offset():
    (x, offset, weight, bias), kwargs = case(stride=2)
    base = deform_conv2d(x, torch.zeros_like(offset), weight, bias, **kwargs)
    for tap in range(4):
        moved = torch.zeros_like(offset)
        moved[..., 2 * tap:2 * tap + 2] = 100  # this tap reads nothing
        kept = weight.clone()
        kept[:, :, tap // 2, tap % 2] = 0
        expected = deform_conv2d(x, torch.zeros_like(offset), kept, bias, **kwargs)
        actual = deform_conv2d(x, moved, weight, bias, **kwargs)
        torch.testing.assert_close(actual, expected)
        assert not torch.allclose(actual, base)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('value', [1e3, -1e3, 1e10, -1e10, 1e30, -1e30, math.inf, -math.inf])
def test_far_away_reads_zero(value, dtype):
    (x, offset, weight, bias), kwargs = case(stride=2, dtype=dtype)
    x.requires_grad_()
    far = torch.full_like(offset, value, dtype=torch.float32).requires_grad_()
    out = deform_conv2d(x, far, weight, bias, **kwargs)
    assert torch.equal(out, bias.expand_as(out))
    out.sum().backward()
    assert not x.grad.any() and not far.grad.any()


@pytest.mark.parametrize('position, weight', [(-1, 0), (-0.75, 0.25), (0, 1), (3, 1), (3.25, 0.75),
                                              (4, 0), (4.5, 0)])
def test_edge_of_the_map(position, weight):
    """On a map of ones a position reads its weight inside the map, on each axis."""
    ones = torch.ones(1, 4, 4, 1)
    for axis in (0, 1):
        offset = torch.full((1, 1, 1, 2), 1.)
        offset[..., axis] = position
        out = deform_conv2d(ones, offset, torch.ones(1, 1, 1, 1), stride=4)
        assert out.item() == weight


def test_non_contiguous_input():
    (x, offset, weight, bias), kwargs = case(stride=2)
    view = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not view.is_contiguous()
    torch.testing.assert_close(
        deform_conv2d(view, offset, weight, bias, **kwargs),
        deform_conv2d(x, offset, weight, bias, **kwargs))


@pytest.mark.parametrize('geometry', [
    dict(stride=2, size=(4, 5)),
    dict(kernel=(3, 3), stride=2, padding=2, dilation=2, size=(3, 4), batch=1),
], ids=str)
def test_gradients(geometry):
    tensors, kwargs = case(**geometry, scale=1.)
    for t in tensors:
        t.requires_grad_()
    # The seed keeps positions off the grid lines, where bilinear interpolation has a kink.
    assert ((tensors[1] - tensors[1].round()).abs() > 1e-4).all()
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, **kwargs), tensors)


@needs_torch((2, 11), 'embedding_bag fails if only its weights need gradients')
def test_gradients_reach_neighbours_of_integer_positions():
    """Offsets start at zero: their gradient is the slope towards the next pixel."""
    x = torch.arange(16.).view(1, 4, 4, 1) ** 2
    offset = torch.zeros(1, 2, 2, 2, requires_grad=True)
    deform_conv2d(x, offset, torch.ones(1, 1, 1, 1), stride=2).sum().backward()
    at, below, right = x[0, ::2, ::2, 0], x[0, 1::2, ::2, 0], x[0, ::2, 1::2, 0]
    torch.testing.assert_close(offset.grad[0], torch.stack([below - at, right - at], dim=-1))


def test_half_precision_map_keeps_float32_positions():
    """In bfloat16 the position 300.5 would be 300 or 302."""
    x = torch.arange(400.).remainder(7).view(1, 1, 400, 1).bfloat16()
    offset = torch.tensor([0., 300.5]).view(1, 1, 1, 2)
    out = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), stride=400)
    assert out.dtype == torch.bfloat16
    assert out.item() == (300 % 7 + 301 % 7) / 2
