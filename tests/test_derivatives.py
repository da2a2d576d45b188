"""Derivatives in forward mode, of higher order and of many samples, in every form."""
import pytest
import torch
from torch.autograd import forward_ad

from mmlit import ops
from mmlit.models.ffn import ConvFFN
from mmlit.ops import ffn as ffn_module

from .conftest import needs_torch
from .test_litv2 import build, images

pytestmark = needs_torch((2, 4), 'custom ops, whose derivatives are tested here, are missing')
forms = pytest.mark.parametrize('form', ['fast', 'reference'])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', 4096)  # tiles in training, too


@pytest.fixture
def case():
    """A function of images, images, and a direction; positions of the merging are no integers."""
    model = build(window_size=[0, 0, 2, 1], alpha=0.5).double().eval().requires_grad_(False)
    x = images(1, 36, 40).double()
    return lambda x: model(x)[0], x, torch.randn_like(x)


def by_reverse_mode(function, x, direction):
    """The directional derivative, from gradients of the plain forms."""
    with ops.use('reference'):
        jacobian = torch.autograd.functional.vjp
        rows = [jacobian(function, x, seed.view(1, -1, 1, 1))[1]
                for seed in torch.eye(128, dtype=x.dtype)[:8]]
    return torch.stack([(row * direction).sum() for row in rows])


@forms
@pytest.mark.parametrize('grad', [False, True])
def test_forward_mode_equals_reverse_mode(case, form, grad):
    function, x, direction = case
    expected = by_reverse_mode(function, x, direction)
    with ops.use(form), torch.set_grad_enabled(grad):
        _, tangent = torch.func.jvp(function, (x, ), (direction, ))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, direction)
            _, again = forward_ad.unpack_dual(function(dual))
        after = function(x)  # the faster forms are back
    torch.testing.assert_close(tangent.flatten()[:8], expected)
    torch.testing.assert_close(again, tangent)
    torch.testing.assert_close(after, function(x))


@forms
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_derivatives_in_weights(form, dtype):
    """The images carry no tangent, the weights do."""
    layer = ConvFFN(4, 8, dict(type='GELU')).to(dtype)
    x = torch.randn(2, 5, 5, 4, dtype=dtype)
    weights = {k: p.detach() for k, p in layer.named_parameters()}
    for name, weight in weights.items():
        def function(t, name=name):
            return torch.func.functional_call(layer, {**weights, name: t}, (x, ))

        with torch.no_grad(), ops.use(form):
            _, tangent = torch.func.jvp(function, (weight, ), (torch.ones_like(weight), ))
        step = 1e-3
        expected = (function(weight + step) - function(weight - step)) / (2 * step)
        assert tangent.abs().sum() > 0, name
        torch.testing.assert_close(tangent, expected, rtol=1e-2, atol=1e-3)


@forms
def test_forward_over_reverse_equals_differences_of_gradients(case, form):
    function, x, direction = case
    gradient = torch.func.grad(lambda x: function(x).square().sum())
    with ops.use(form):
        _, product = torch.func.jvp(gradient, (x, ), (direction, ))
        step = 1e-6
        expected = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-5)


@forms
def test_vmap_equals_a_loop(case, form):
    function, x, direction = case
    batch = torch.stack([x, direction])
    with ops.use(form), torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(function)(batch),
                                   torch.stack([function(t) for t in batch]))
        jacobian = torch.func.jacfwd(lambda s: function(x + s * direction))(torch.zeros(1).double())
        _, tangent = torch.func.jvp(function, (x, ), (direction, ))
    torch.testing.assert_close(jacobian.flatten(), tangent.flatten())


@forms
def test_gradients_of_gradients_are_right_or_refused(form):
    layer = ConvFFN(4, 8, dict(type='GELU')).double()
    x = torch.randn(2, 9, 9, 4, dtype=torch.float64, requires_grad=True)
    with ops.use(form):
        (grad, ) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        if form == 'fast':  # whose backward pass is an op of its own
            assert ffn_module.tiled_fits(x, layer.fc1.weight)
            with pytest.raises(RuntimeError, match='conv_ffn_backward'):
                torch.autograd.grad(grad.square().sum(), x)
        else:
            (second, ) = torch.autograd.grad(grad.square().sum(), x)
            assert second.abs().sum() > 0
    with pytest.raises(RuntimeError, match='embedding_bag'):
        model = build().double()
        y = images(2, 32, 32).double().requires_grad_()
        with ops.use('reference'):
            (grad, ) = torch.autograd.grad(model(y)[0].square().sum(), y, create_graph=True)
            torch.autograd.grad(grad.square().sum(), y)
