"""The switch, and the forms that are small enough to test beside it."""
import asyncio
import os
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmlit import LITv2, ops
from mmlit.errors import ArgumentError
from mmlit.models.litv2 import Block
from mmlit.ops import choice

from ..conftest import GOLDEN_ARCH, needs_torch


def test_switch():
    assert ops.fast()
    with ops.use('reference'):
        assert not ops.fast()
        with ops.use('fast'):
            assert ops.fast()
        assert not ops.fast()
    assert ops.fast()
    ops.set_form('reference')
    assert not ops.fast()
    with ops.use('fast'):
        assert ops.fast()
    ops.set_form('fast')
    for choose in (ops.use, ops.set_form):
        with pytest.raises(ArgumentError, match="form='plain'"):
            choose('plain')
    assert ops.fast()


def test_decorated_functions_run_each_in_its_own_form():
    plain, quick = ops.use('reference')(ops.fast), ops.use('fast')(ops.fast)
    assert ops.fast()  # decorating switches nothing
    assert [plain(), quick(), plain(), ops.fast()] == [False, True, False, True]
    with ops.use('reference'):
        assert [quick(), plain(), ops.fast()] == [True, False, False]


def test_a_decorated_function_may_call_itself_and_fail():
    @ops.use('reference')
    def count(n):
        assert not ops.fast()
        if n == 0:
            raise KeyError
        with ops.use('fast'):
            count(n - 1)

    with pytest.raises(KeyError):
        count(3)
    assert ops.fast()


def test_one_object_serves_many_blocks():
    form = ops.use('reference')
    assert ops.fast()
    with form, ops.use('fast'), form:
        assert not ops.fast()
    assert ops.fast()


def test_threads_that_overlap_keep_their_forms():
    """The first to enter is the first to leave, and neither decides for the other."""
    plain = ops.use('reference')
    steps, seen = threading.Barrier(2, timeout=20), {}

    def first():
        with plain:
            steps.wait()  # the other enters its block now
            steps.wait()
            seen['first'] = choice.form
        seen['first, after'] = choice.form
        steps.wait()

    def second():
        seen['second, before'] = choice.form
        steps.wait()
        with ops.use('fast'):
            steps.wait()
            steps.wait()
            seen['second'] = choice.form
        seen['second, after'] = choice.form

    with ops.use('fast'):  # of this thread alone
        threads = [threading.Thread(target=f) for f in (first, second)]
        ops.set_form('reference')
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        ops.set_form('fast')
    assert seen == {'first': 'reference', 'first, after': 'reference',
                    'second, before': 'reference', 'second': 'fast', 'second, after': 'reference'}
    assert ops.fast()


def test_asynchronous_tasks_that_overlap_keep_their_forms():
    @ops.use('reference')
    async def plain():
        await asyncio.sleep(0)
        found = choice.form
        await asyncio.sleep(0)
        return found, choice.form

    async def quick():
        found = []
        for _ in range(4):
            await asyncio.sleep(0)
            found.append(choice.form)
        return found

    async def both():
        return await asyncio.gather(plain(), quick(), plain())

    assert asyncio.run(both()) == [('reference', 'reference'), ['fast'] * 4,
                                   ('reference', 'reference')]


def test_generators_are_not_decorated():
    def steps():
        yield ops.fast()

    async def asynchronous():
        yield ops.fast()

    for generator in (steps, asynchronous):
        with pytest.raises(ArgumentError, match=r'<locals>\.\w+ is a generator'):
            ops.use('reference')(generator)


def test_a_choice_that_changes_nothing_warns():
    with pytest.warns(UserWarning, match=r"set_form\('reference'\)"):
        ops.use('reference')
    assert ops.fast()


def test_what_is_computed_again_keeps_its_form(monkeypatch):
    """Activation checkpointing runs blocks a second time, in the backward pass."""
    forms = []
    monkeypatch.setattr(Block, '_forward', lambda self, x: forms.append(choice.form) or x.sin())
    model, x = LITv2(GOLDEN_ARCH, with_cp=True), torch.randn(2, 3, 32, 32)
    with ops.use('reference'):
        (out, ) = model(x)
    first = len(forms)
    out.sum().backward()
    assert len(forms) > first and set(forms) == {'reference'}


def test_triton_must_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    # As if no test before this one had asked for it.
    for name in [name for name in sys.modules if name.startswith('mmlit.ops.gpu')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(ops, 'gpu', raising=False)
    for choose in (ops.use, ops.set_form):
        with pytest.raises(ArgumentError, match="form='triton' needs triton"):
            choose('triton')
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


def test_a_bias_that_trains_alone_gets_its_gradient():
    x, layer = torch.randn(5, 6), torch.nn.Linear(6, 4)
    layer.weight.requires_grad_(False)
    ops.call_linear(layer, x).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((4, ), 5.))


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
