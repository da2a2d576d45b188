"""Triton's kernels against the plain forms: on a GPU, or without one in Triton's interpreter."""
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmlit import LITv2, ops
from mmlit.models.ffn import ConvFFN
from mmlit.ops.deform_conv import _sample
from mmlit.ops.ffn import _depthwise

from ..conftest import GOLDEN_ARCH, needs_triton

pytestmark = needs_triton

ROOT = Path(__file__).parents[2]
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# Times the rounding of the dtype: each form rounds, in places of its own.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
dtypes = pytest.mark.parametrize('dtype', TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def triton_form():
    with ops.use('triton'):
        yield


def randn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype).requires_grad_()


def check(kernel, plain, tensors):
    """Same outputs and gradients as the plain form has in float64."""
    out = kernel(*tensors)
    exact_inputs = [t.detach().double().requires_grad_() for t in tensors]
    exact = plain(*exact_inputs)
    assert out.dtype == tensors[0].dtype and out.shape == exact.shape
    weight = randn(*out.shape, seed=1).detach()
    grads = torch.autograd.grad((out.float() * weight).sum(), tensors)
    exact_grads = torch.autograd.grad((exact * weight).sum(), exact_inputs)
    for a, b, like in zip((out, *grads), (exact, *exact_grads), (out, *tensors), strict=True):
        assert a.dtype == like.dtype and a.shape == b.shape
        assert (a.double() - b).norm() <= TOLERANCE[tensors[0].dtype] * b.norm()


def depthwise_gelu_linear(x, dw, db, weight, bias):
    return F.linear(F.gelu(_depthwise(x, dw, db)), weight, bias)


def ffn_tail(*size, dtype=torch.float32, dw_dtype=None):
    """A hidden map and the weights that it meets."""
    C, wide = size[-1], dw_dtype or dtype
    return [randn(*size, dtype=dtype), randn(C, 1, 3, 3, dtype=wide), randn(C, dtype=wide),
            randn(6, C, dtype=dtype), randn(6, dtype=dtype)]


@dtypes
@pytest.mark.parametrize('size', [(1, 1, 1, 5), (2, 3, 7, 33), (1, 6, 5, 70)], ids=str)
def test_dwconv_gelu_linear(size, dtype):
    check(torch.ops.mmlit.dwconv_gelu_linear, depthwise_gelu_linear, ffn_tail(*size, dtype=dtype))


def test_dwconv_gelu_linear_sums_in_chunks(monkeypatch):
    from mmlit.ops.gpu import dwconv
    monkeypatch.setattr(dwconv, 'CHUNKS', 2)
    for name, value in dict(LINES=2, STRIP=4, CHANNELS=2).items():
        monkeypatch.setattr(dwconv, name, value)
    check(torch.ops.mmlit.dwconv_gelu_linear, depthwise_gelu_linear, ffn_tail(1, 5, 7, 3))


def test_dwconv_gelu_linear_with_wider_weights():
    """As under autocast."""
    check(torch.ops.mmlit.dwconv_gelu_linear, depthwise_gelu_linear,
          ffn_tail(1, 4, 4, 8, dtype=torch.bfloat16, dw_dtype=torch.float32))


def test_training_keeps_one_hidden_map():
    """Of three that autograd keeps of the plain form."""

    def kept(form):
        layer = ConvFFN(8, 32, dict(type='GELU')).to(DEVICE)
        weights = {p.data_ptr() for p in layer.parameters()}
        maps = {}

        def pack(tensor):
            if tensor.untyped_storage().data_ptr() not in weights:
                maps[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with ops.use(form), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = layer(randn(2, 6, 6, 8))
        out.sum().backward()
        return sorted(maps.values())

    small, hidden = 2 * 6 * 6 * 8, 2 * 6 * 6 * 32
    assert kept('triton') == [small, hidden]
    assert kept('reference') == [small, hidden, hidden, hidden]


@dtypes
@pytest.mark.parametrize('kernel, stride, padding, dilation, size', [
    ((2, 2), 2, 0, 1, (2, 5, 7)), ((2, 2), 2, 0, 1, (1, 2, 2)), ((3, 3), 2, 2, 2, (1, 5, 4)),
    ((1, 3), 1, 1, 1, (2, 3, 4))], ids=str)
@pytest.mark.parametrize('scale', [0.7, 5.])
def test_bilinear_gather(kernel, stride, padding, dilation, size, scale, dtype):
    B, H, W = size
    H_out, W_out = ((n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
                    for n, k in zip((H, W), kernel, strict=True))
    x = randn(B, H, W, 67, dtype=dtype)
    offset = (randn(B, H_out, W_out, 2 * math.prod(kernel)) * scale).detach().requires_grad_()
    geometry = (stride, padding, dilation)
    check(lambda x, o: torch.ops.mmlit.bilinear_gather(x, o, kernel[1], *geometry),
          lambda x, o: _sample(x, o, kernel, *geometry), [x, offset])


@pytest.mark.parametrize('value', [1e10, -1e10, math.inf, -math.inf])
def test_bilinear_gather_far_away(value):
    x, offset = randn(1, 4, 4, 3), torch.full((1, 2, 2, 8), value, device=DEVICE)
    out = torch.ops.mmlit.bilinear_gather(x, offset, 2, 2, 0, 1)
    out.sum().backward()
    assert not out.any() and not x.grad.any()


@dtypes
@pytest.mark.parametrize('window', [1, 2, 3, 4, 7])
@pytest.mark.parametrize('heads, dims', [(1, 32), (3, 20)])
def test_windows(window, heads, dims, dtype):
    qkv = randn(2, 2 * window, 3 * window, 3 * heads * dims, dtype=dtype)

    def plain(x):
        with ops.use('reference'):
            return ops.window_attention(x, window, heads)

    check(lambda x: ops.window_attention(x, window, heads), plain, [qkv])


@pytest.mark.parametrize('op, tensors', [
    ('dwconv_gelu_linear', lambda: ffn_tail(1, 3, 4, 5)),
    ('bilinear_gather', lambda: (randn(1, 4, 4, 3), randn(1, 2, 2, 8), 2, 2, 0, 1)),
    ('hifi_windows', lambda: (randn(1, 4, 4, 24), 2, 2)),
])
def test_registration(op, tensors):
    """Fake and autograd forms agree with the kernels, dynamic shapes included."""
    torch.library.opcheck(getattr(torch.ops.mmlit, op).default, tensors())


def outputs_and_gradients(model, call, x):
    model.zero_grad()
    outs = call(x)
    sum(o.square().mean() for o in outs).backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {**dict(enumerate(outs)), **grads}


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.slow
def test_model(training):
    """The whole model takes the kernels, compiled in one graph, too, with equal results."""
    torch.manual_seed(0)
    model = LITv2(GOLDEN_ARCH, out_indices=(0, 1, 2, 3)).to(DEVICE).train(training)
    for name, p in model.named_parameters():
        if 'conv_offset' in name:
            torch.nn.init.normal_(p, std=0.1)
    # The interpreter takes its time for each window and each row.
    size = (2, 3, 50, 75) if torch.cuda.is_available() else (1, 3, 50, 75)
    x = torch.randn(size, device=DEVICE)
    with ops.use('reference'):
        expected = outputs_and_gradients(model, model, x)
    with torch.profiler.profile() as profile:
        eager = outputs_and_gradients(model, model, x)
    calls = {event.key for event in profile.key_averages()}
    assert {'mmlit::dwconv_gelu_linear', 'mmlit::bilinear_gather', 'mmlit::hifi_windows'} <= calls
    compiled = outputs_and_gradients(
        model, torch.compile(model, backend='aot_eager', fullgraph=True), x)
    for key, value in expected.items():
        torch.testing.assert_close(eager[key], value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(compiled[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='Triton compiles on Linux')
def test_compiles_without_a_gpu():
    """For an H100 or H200, as a call there would, and all values stay in registers."""
    run = subprocess.run([sys.executable, '-W', 'ignore', ROOT / 'tools/compile_kernels.py'],
                         capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    rows = [line.split('|') for line in run.stdout.splitlines()[2:]]
    assert len(rows) == 14
    assert all(int(row[4]) == 0 for row in rows), run.stdout
