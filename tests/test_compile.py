"""torch.compile: the whole backbone in one graph, once for all sizes of images."""
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmlit.ops import ffn as ffn_module
from mmlit.ops import set_form, use

from .conftest import needs_torch
from .test_litv2 import ALL, build, images, loss_of

# The graph is what is tested here, and needs no code generation.
BACKEND = 'aot_eager'


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('size', [(64, 96), (50, 75)])
def test_one_graph(size, training, form, monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', 4096)  # tiles in training, too
    model = build(out_indices=ALL).train(training)
    x = images(2, *size)
    with use(form), torch.set_grad_enabled(training):
        outs = torch.compile(model, backend=BACKEND, fullgraph=True)(x)
        expected = model(x)
        for a, b in zip(outs, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        if training:
            grads = [torch.autograd.grad(loss_of(o), list(model.parameters()))
                     for o in (outs, expected)]
            for a, b in zip(*grads, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@needs_torch((2, 11), 'each remainder of a size may get a graph')
@torch.no_grad()
@pytest.mark.parametrize('form', ['fast', 'reference'])
@pytest.mark.slow
def test_sizes_share_a_graph(form):
    """Sides that are, and sides that are not, multiples of the total stride."""
    model = build(out_indices=ALL).eval()
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with use(form):
        for i, size in enumerate([(64, 96), (128, 160), (96, 224), (160, 64)]):
            x = images(2, *size)
            for dim in (2, 3):
                torch._dynamo.mark_dynamic(x, dim)
            for a, b in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert counter.frame_count == 1, i


@torch.no_grad()
@pytest.mark.parametrize('form', ['fast', 'reference'])
def test_the_forms_in_the_graph(form):
    """A graph holds the forms that eager execution takes, not those of exports."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    with use(form):
        torch.compile(build().eval(), backend=backend, fullgraph=True)(images(1, 64, 64))
    calls = {str(node.target) for node in graphs[0].graph.nodes}
    fast = form == 'fast' and ffn_module.TILED is not None
    assert any('conv_ffn' in call for call in calls) == fast
    assert any('embedding_bag' in call for call in calls)


@torch.no_grad()
def test_another_form_is_another_graph():
    """Of the block, the thread and the program."""
    model, x = build().eval(), images(1, 64, 64)
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(model, backend=counter, fullgraph=True)

    def graphs():
        compiled(x)
        return counter.frame_count

    assert graphs() == graphs() == 1
    with use('reference'):
        assert graphs() == graphs() == 2
        (elsewhere, ) = ThreadPoolExecutor(1).map(lambda _: torch.no_grad()(graphs)(), [0])
        assert elsewhere == 2  # the program's form, which has a graph
    assert graphs() == 2
    set_form('reference')
    try:
        assert graphs() == 2
    finally:
        set_form('fast')


@needs_torch((2, 4), 'the compiler knows no identity of tensors')
@torch.no_grad()
def test_fused_model():
    model = build(out_indices=ALL, init_values=0.1).eval().fuse()
    x = images(2, 50, 75)
    compiled = torch.compile(model, backend=BACKEND, fullgraph=True)
    for a, b in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_generated_code():
    """Through inductor: needs a C++ compiler, and half a minute."""
    model = build(out_indices=ALL).eval()
    x = images(2, 50, 75)
    for a, b in zip(torch.compile(model, fullgraph=True)(x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
