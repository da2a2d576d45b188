"""The switch, and the forms that are small enough to test beside it."""
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmlit import LITv2, ops
from mmlit.errors import ArgumentError

from ..conftest import GOLDEN_ARCH, needs_torch


def test_switch():
    assert ops.fast()
    with ops.use('reference'):
        assert not ops.fast()
        with ops.use('fast'):
            assert ops.fast()
        assert not ops.fast()
    assert ops.fast()
    ops.use('reference')
    assert not ops.fast()
    ops.use('fast')
    with pytest.raises(ArgumentError, match="form='plain'"):
        ops.use('plain')
    assert ops.fast()


def test_triton_must_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    # As if no test before this one had asked for it.
    for name in [name for name in sys.modules if name.startswith('mmlit.ops.gpu')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(ops, 'gpu', raising=False)
    with pytest.raises(ArgumentError, match="form='triton' needs triton"):
        ops.use('triton')
    assert ops.fast()


@pytest.mark.parametrize('value, printed', [('reference', 'False'), ('fast', 'True'),
                                            ('slow', "MMLIT_OPS='slow'")])
def test_environment_variable(value, printed):
    run = subprocess.run([sys.executable, '-c', 'from mmlit import ops; print(ops.fast())'],
                         env={**os.environ, 'MMLIT_OPS': value}, capture_output=True, text=True)
    assert printed in run.stdout + run.stderr


@torch.no_grad()
@pytest.mark.parametrize('look', [
    'flop counter', 'trace',
    pytest.param('export', marks=needs_torch((2, 11), 'regions without autocast do not export'))])
def test_those_who_look_see_plain_ops(look):
    model, x = LITv2(GOLDEN_ARCH).eval(), torch.randn(1, 3, 64, 64)
    if look == 'flop counter':
        counts = []
        for form in ('fast', 'reference'):
            with FlopCounterMode(display=False) as counter, ops.use(form):
                model(x)
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 1e6
        return
    if look == 'trace':
        text = str(torch.jit.trace(model, x).inlined_graph)
    else:
        text = str(torch.export.export(model, (x, )).graph)
    assert 'aten' in text and 'mmlit.conv_ffn' not in text and 'mmlit::' not in text
    assert 'mkldnn' not in text


@pytest.fixture
def onednn(monkeypatch):
    from mmlit.ops import linears as module
    calls = []

    def spy(*args):
        calls.append(args)
        return original(*args)

    original = module.ONEDNN
    if original is None:
        pytest.skip('torch was built without oneDNN')
    monkeypatch.setattr(module, 'ONEDNN', spy)
    return calls


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('shape', [(7, 6), (2, 3, 5, 6), (1, 6)])
def test_linear(shape, bias, onednn):
    x, weight = torch.randn(shape), torch.randn(4, 6)
    bias = torch.randn(4) if bias else None
    torch.testing.assert_close(ops.linear(x, weight, bias), F.linear(x, weight, bias))
    assert len(onednn) == 1
    view = x.transpose(0, -1).contiguous().transpose(0, -1)
    torch.testing.assert_close(ops.linear(view, weight, bias), F.linear(x, weight, bias))


def test_linear_where_onednn_does_not_fit(onednn):
    x, weight = torch.randn(5, 6), torch.randn(4, 6)
    trained = weight.clone().requires_grad_()
    ops.linear(x, trained).sum().backward()
    assert trained.grad is not None
    ops.linear(x.double(), weight.double())
    ops.linear(x[:0], weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert ops.linear(x, weight).dtype == torch.bfloat16
    with ops.use('reference'):
        ops.linear(x, weight)
    assert not onednn
    with torch.no_grad():
        ops.linear(x, trained)
    assert len(onednn) == 1


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize('window', [1, 2, 3, 4])
def test_windows(window, dtype, tolerance):
    torch.manual_seed(0)
    qkv = torch.randn(2, 2 * window, 3 * window, 3 * 8).to(dtype).requires_grad_()
    weight = torch.randn(2, 2 * window, 3 * window, 8).to(dtype)
    results = []
    for form in ('fast', 'reference'):
        with ops.use(form):
            out = ops.window_attention(qkv, window, heads=2)
        results.append((out, *torch.autograd.grad((out * weight).sum(), qkv)))
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@torch.no_grad()
def test_watched_and_wrapped_linears_are_called(onednn):
    x, layer = torch.randn(2, 3), torch.nn.Linear(3, 4)
    expected = layer(x)
    torch.testing.assert_close(ops.call_linear(layer, x), expected)
    assert len(onednn) == 1
    seen = []
    handle = layer.register_forward_hook(lambda *args: seen.append(args))
    assert torch.equal(ops.call_linear(layer, x), expected)
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: seen.append(args))
    assert torch.equal(ops.call_linear(layer, x), expected)
    handle.remove()
    assert len(seen) == 2
    doubled = torch.nn.Sequential(layer, torch.nn.Linear(4, 4))
    assert torch.equal(ops.call_linear(doubled, x), doubled(x))
    assert len(onednn) == 1


@torch.no_grad()
def test_dynamic_quantization_finds_the_linears():
    """Tools go by the exact type of a layer."""
    model = LITv2(GOLDEN_ARCH).eval()
    x = torch.randn(1, 3, 64, 64)
    (expected, ) = model(x)
    if torch.backends.quantized.engine == 'none':
        pytest.skip('torch was built without quantized engines')
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    kinds = {type(m).__module__ for m in quantized.stages.modules()}
    assert 'torch.ao.nn.quantized.dynamic.modules.linear' in kinds
    (out, ) = quantized(x)
    assert 0 < (out - expected).norm() < 0.1 * expected.norm()
