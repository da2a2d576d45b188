"""What mmcv's compiled operators were recorded on; inputs are from NumPy's old, stable generator.

``python -m tests.mmcv_ops.cases`` writes tests/data/mmcv_ops.npz where a compiled mmcv 2.1.0 is
installed.
"""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / 'data/mmcv_ops.npz'
CASES: dict[str, Callable[[], dict[str, Tensor]]] = {}


def case(**variants):
    """Register a function once for each of its variants, by name."""

    def register(function):
        for name, arguments in variants.items():
            CASES[f'{function.__name__}/{name}'] = lambda a=arguments: function(**a)
        return function

    return register


def numbers(*shape, seed: int = 0, scale: float = 1., dtype=torch.float32) -> Tensor:
    values = np.random.RandomState(seed).standard_normal(shape) * scale
    return torch.from_numpy(values.astype(np.float32)).to(dtype)


def boxes(count: int, width: float, height: float, seed: int = 0, side: float = 0.3) -> Tensor:
    """Boxes of all sizes; some reach out of an image of this size, some lie outside."""
    draw = np.random.RandomState(seed).uniform(size=(count, 4))
    centre = draw[:, :2] * [1.2 * width, 1.2 * height] - [0.1 * width, 0.1 * height]
    half = draw[:, 2:]**2 * [side * width, side * height]
    return torch.from_numpy(np.hstack([centre - half, centre + half]).astype(np.float32))


def rois(count: int, batch: int, width: float, height: float, seed: int = 0) -> Tensor:
    image = torch.arange(count).remainder(batch).float().unsqueeze(1)
    return torch.cat([image, boxes(count, width, height, seed, side=0.6)], dim=1)


def backward(out: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    """An output, and the gradients of a weighted sum of it."""
    out.backward(numbers(*out.shape, seed=99, dtype=out.dtype))
    return {'out': out.detach(), **{f'grad_{name}': t.grad for name, t in inputs.items()}}


@case(random=dict(count=700), one=dict(count=1), empty=dict(count=0),
      ties=dict(count=300, levels=4), offset=dict(count=300, offset=1),
      strict=dict(count=500, threshold=0.05), lenient=dict(count=500, threshold=0.9),
      twins=dict(count=200, twins=True), filtered=dict(count=300, score_threshold=0.5, max_num=7))
def nms(count, levels=None, threshold=0.5, offset=0, twins=False, score_threshold=0, max_num=-1):
    from mmcv.ops import nms
    found = boxes(count, 200, 100, side=0.2)
    scores = torch.from_numpy(np.random.RandomState(1).uniform(size=count).astype(np.float32))
    if levels:
        scores = (scores * levels).round() / levels
    if twins:
        found[1::2] = found[::2]
    dets, kept = nms(found, scores, threshold, offset, score_threshold, max_num)
    return dict(dets=dets, kept=kept)


@case(naive=dict(method='naive'), linear=dict(method='linear'), gaussian=dict(method='gaussian'),
      ties=dict(method='linear', levels=3), offset=dict(method='linear', offset=1),
      empty=dict(method='linear', count=0), high=dict(method='gaussian', min_score=0.3))
def soft_nms(method, count=150, levels=None, offset=0, min_score=1e-3):
    from mmcv.ops import soft_nms
    found = boxes(count, 100, 100, seed=2, side=0.3)
    scores = torch.from_numpy(np.random.RandomState(3).uniform(size=count).astype(np.float32))
    if levels:
        scores = (scores * levels).round() / levels
    dets, kept = soft_nms(found, scores, 0.3, 0.5, min_score, method, offset)
    return dict(dets=dets, kept=kept)


@case(random=dict(count=200, threshold=0.3), strict=dict(count=200, threshold=0.01),
      one=dict(count=1, threshold=0.5))
def nms_match(count, threshold):
    from mmcv.ops import nms_match
    scores = torch.from_numpy(np.random.RandomState(5).uniform(size=(count, 1)).astype(np.float32))
    groups = nms_match(torch.cat([boxes(count, 100, 100, seed=4), scores], dim=1), threshold)
    return dict(members=torch.cat(groups), sizes=torch.tensor([len(g) for g in groups]))


@case(adaptive=dict(), two=dict(ratio=2), three=dict(ratio=3, size=(3, 5)),
      unaligned=dict(aligned=False), tall=dict(size=(14, 2)), scaled=dict(scale=0.25),
      max=dict(mode='max'), max_two=dict(mode='max', ratio=2, aligned=False),
      no_boxes=dict(count=0), one_pixel=dict(shape=(2, 3, 1, 1)), row=dict(shape=(1, 2, 1, 37)),
      half=dict(dtype=torch.float16, size=(4, 4), whole=8), double=dict(dtype=torch.float64))
def roi_align(shape=(2, 5, 23, 31), count=40, size=(7, 7), scale=1., ratio=0, mode='avg',
              aligned=True, dtype=torch.float32, whole=None):
    from mmcv.ops import roi_align
    x = numbers(*shape, dtype=dtype).requires_grad_()
    found = rois(count, shape[0], shape[3] / scale, shape[2] / scale).to(dtype)
    if whole:  # positions that half precision holds: mmcv computes them in it
        found[:, 1:] = (found[:, 1:] / whole).round() * whole
    if count > 3:
        found[3, 3:] = found[3, 1:3]  # without area
    out = roi_align(x, found, size, scale, ratio, mode, aligned)
    return backward(out, x=x)


@case(plain=dict(), groups=dict(groups=2), deform_groups=dict(deform_groups=3),
      both=dict(groups=3, deform_groups=2), stride=dict(stride=2, padding=0, kernel=(2, 2)),
      dilated=dict(dilation=(2, 1), padding=(2, 1)), wide=dict(kernel=(1, 3), padding=(0, 1)),
      far=dict(reach=30.), one=dict(batch=1, shape=(6, 3, 4)), double=dict(dtype=torch.float64))
def deform_conv(batch=3, shape=(6, 11, 8), kernel=(3, 3), stride=1, padding=1, dilation=1, groups=1,
                deform_groups=1, reach=1.5, dtype=torch.float32):
    from mmcv.ops import deform_conv2d
    x, offset, weight, _ = _conv_inputs(batch, shape, kernel, stride, padding, dilation, groups,
                                        deform_groups, reach, dtype)
    out = deform_conv2d(x, offset, weight, stride, padding, dilation, groups, deform_groups)
    return backward(out, x=x, offset=offset, weight=weight)


@case(plain=dict(), no_bias=dict(bias=False), groups=dict(groups=2),
      deform_groups=dict(deform_groups=3), stride=dict(stride=2), double=dict(dtype=torch.float64),
      finer_offsets=dict(finer=3))
def modulated_deform_conv(batch=2, shape=(6, 9, 7), kernel=(3, 3), stride=1, padding=1, dilation=1,
                          groups=1, deform_groups=1, bias=True, dtype=torch.float32, finer=0):
    from mmcv.ops import modulated_deform_conv2d
    x, offset, weight, mask = _conv_inputs(batch, shape, kernel, stride, padding, dilation, groups,
                                           deform_groups, 1.5, dtype)
    if finer:  # of a larger map, as mmdet's DyHead gives
        offset, mask = (F.pad(t.detach(), (0, finer, 0, finer), value=0.5).requires_grad_()
                        for t in (offset, mask))
    inputs = dict(x=x, offset=offset, mask=mask, weight=weight)
    shift = numbers(len(weight), seed=7, dtype=dtype).requires_grad_() if bias else None
    out = modulated_deform_conv2d(x, offset, mask, weight, shift, stride, padding, dilation, groups,
                                  deform_groups)
    return backward(out, **inputs, **(dict(bias=shift) if bias else {}))


def _conv_inputs(batch, shape, kernel, stride, padding, dilation, groups, deform_groups, reach,
                 dtype) -> list[Tensor]:
    pad, gap = (v if isinstance(v, tuple) else (v, v) for v in (padding, dilation))
    sides = [(n + 2 * p - d * (k - 1) - 1) // stride + 1
             for n, p, d, k in zip(shape[1:], pad, gap, kernel, strict=True)]
    taps = deform_groups * kernel[0] * kernel[1]
    mask = numbers(batch, taps, *sides, seed=6, dtype=dtype).sigmoid()
    return [t.requires_grad_() for t in (
        numbers(batch, *shape, dtype=dtype),
        numbers(batch, 2 * taps, *sides, seed=4, scale=reach, dtype=dtype),
        numbers(12, shape[0] // groups, *kernel, seed=5, dtype=dtype), mask)]


@case(collect=dict(kind='collect'), distribute=dict(kind='distribute'),
      wide=dict(kind='collect', mask=(3, 9)), small=dict(kind='distribute', mask=(3, 3)))
def psa_mask(kind, mask=(9, 7), shape=(5, 4)):
    from mmcv.ops import PSAMask
    x = numbers(2, mask[0] * mask[1], *shape).requires_grad_()
    return backward(PSAMask(kind, mask)(x), x=x)


if __name__ == '__main__':
    import mmcv._ext
    assert mmcv._ext.__file__, 'needs a compiled mmcv'
    np.savez_compressed(GOLDEN, **{f'{name}/{key}': value.numpy() for name, run in CASES.items()
                                   for key, value in run().items()})
    print(f'{GOLDEN}: {len(CASES)} cases, {GOLDEN.stat().st_size / 1e3:.0f} kB')
