"""The tiled feed-forward network gives what the plain one gives."""
import pytest
import torch

from mmlit.models.ffn import ConvFFN
from mmlit.ops import conv_ffn, use
from mmlit.ops import ffn as ffn_module
from mmlit.ops.ffn import conv_ffn_reference

SIZES = [(1, 1, 1), (3, 1, 5), (2, 7, 6), (5, 4, 4)]
# Of a hidden map with 12 channels in float64: less than a row, some rows, some images, everything.
TILES = [1, 2000, 5000, 2**20]


needs_op = pytest.mark.skipif(ffn_module.TILED is None,
                              reason='torch < 2.4 has no custom ops: training takes the plain form')


@pytest.fixture(params=TILES, autouse=True)
def tile_bytes(request, monkeypatch):
    monkeypatch.setattr(ffn_module, 'TILE_BYTES', request.param)


def case(*size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(*size, 4), (12, 4), (12, ), (12, 1, 3, 3), (12, ), (6, 12), (6, )]
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_outputs(size):
    tensors = case(*size)
    expected = conv_ffn_reference(*tensors)
    torch.testing.assert_close(conv_ffn(*tensors), expected)
    view = tensors[0].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(conv_ffn(view, *tensors[1:]), expected)


@needs_op
@pytest.mark.parametrize('size', SIZES)
def test_gradients(size):
    tensors = [t.requires_grad_() for t in case(*size)]
    weight = torch.randn(*size, 6, dtype=torch.float64)
    # The op itself: small maps go the plain way when they train.
    forms = (torch.ops.mmlit.conv_ffn, conv_ffn_reference)
    ours, expected = (torch.autograd.grad((f(*tensors) * weight).sum(), tensors) for f in forms)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@needs_op
@pytest.mark.parametrize('frozen', [(0, ), (1, 2), (3, 4, 5, 6), range(1, 7)], ids=str)
def test_frozen_tensors_get_no_gradient(frozen):
    tensors = [t.requires_grad_(i not in frozen) for i, t in enumerate(case(2, 7, 6))]
    torch.ops.mmlit.conv_ffn(*tensors).sum().backward()
    grads = [t.grad for t in tensors]
    for t in tensors:
        t.grad = None
    conv_ffn_reference(*tensors).sum().backward()
    for a, t in zip(grads, tensors, strict=True):
        assert (a is None) == (t.grad is None)
        if a is not None:
            torch.testing.assert_close(a, t.grad)


@needs_op
def test_registration():
    tensors = [t.requires_grad_() for t in case(2, 7, 6)]
    torch.library.opcheck(torch.ops.mmlit.conv_ffn, tensors)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('autocast', [False, True])
def test_rounding(dtype, autocast):
    """Errors against float64 are those of the plain form, or less."""
    tensors = [t.to(dtype) for t in case(2, 7, 6)]
    if autocast:
        tensors = [t.float() for t in tensors]
    exact = conv_ffn_reference(*(t.double() for t in tensors))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        outs = conv_ffn(*tensors), conv_ffn_reference(*tensors)
    assert outs[0].dtype == outs[1].dtype
    error, allowed = ((out - exact).norm() for out in outs)
    assert error <= 1.2 * allowed + 1e-5 * exact.norm()


@torch.no_grad()
def test_watched_and_wrapped_layers_are_called():
    """The one op reads weights without calling the layers that hold them."""
    x = torch.randn(1, 4, 4, 8)
    for name in ('fc1', 'dwconv', 'act', 'fc2'):
        ffn, seen = ConvFFN(8, 16, dict(type='GELU')), []
        getattr(ffn, name).register_forward_hook(lambda *args, seen=seen: seen.append(args))
        ffn(x)
        assert len(seen) == 1
    ffn = ConvFFN(8, 16, dict(type='GELU'))
    before = ffn(x)

    class Doubled(type(ffn.fc2)):
        def forward(self, x):
            return 2 * super().forward(x)

    ffn.fc2.__class__ = Doubled
    torch.testing.assert_close(ffn(x), 2 * before)


def test_other_activations_and_dropout():
    x = torch.randn(2, 4, 4, 8)
    for act_cfg, rate in [(dict(type='ReLU'), 0.), (dict(type='GELU', approximate='tanh'), 0.),
                          (dict(type='GELU'), 0.5)]:
        ffn = ConvFFN(8, 16, act_cfg, rate)
        outs = []
        for form in ('fast', 'reference'):
            torch.manual_seed(0)
            with use(form):
                outs.append(ffn(x))
        torch.testing.assert_close(*outs)
