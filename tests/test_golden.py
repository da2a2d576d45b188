"""mmlit against recorded outputs of the official release and of openmixup, in float64."""
import re

import pytest
import torch
import torch.nn.functional as F

from mmlit import LITv2, LITv2Classifier, load_checkpoint, ops
from mmlit.checkpoints.layouts import from_official
from mmlit.models import HiLoAttention
from mmlit.ops import ffn as ffn_module

from .conftest import DATA, GOLDEN_ARCH, needs_triton


@pytest.fixture(autouse=True, params=[
    'reference', 'fast', 'fast, small tiles', pytest.param('triton', marks=needs_triton)])
def form(request, monkeypatch):
    """Every test runs through the plain form of each op, and through the faster ones."""
    if request.param == 'fast, small tiles':
        monkeypatch.setattr(ffn_module, 'TILE_BYTES', 4096)
    with ops.use(request.param.partition(',')[0]):
        yield


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-9, atol=1e-9)


@pytest.fixture
def classifier():
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    load_checkpoint(model, DATA / 'official_cls.pth')
    return model.double().eval()


def test_hilo_layer(golden):
    data = golden('hilo_layer')
    cases = [k for k in data if k.startswith('y/')]
    assert len(cases) == 4 * 5 * 2  # windows, alphas, sizes
    for case in cases:
        _, setting, size = case.split('/')
        window, alpha = setting.split('_')
        layer = HiLoAttention(32, 4, int(window), float(alpha)).double()
        prefix = f'w/{setting}/'
        layer.load_state_dict({k.removeprefix(prefix): v for k, v in data.items()
                               if k.startswith(prefix)})
        h, w = map(int, size.split('x'))
        y = layer(data[f'x_{size}'].double().view(2, h, w, 32))
        assert_equal(y.flatten(1, 2), data[case])


def test_classifier_and_gradients(golden, classifier):
    data = golden('official_cls')
    x = data['x'].double().requires_grad_()
    logits = classifier(x)
    assert_equal(logits, data['logits'])

    loss = logits.square().mean()
    loss.backward()
    assert_equal(loss, data['loss'])
    assert_equal(x.grad, data['grad_x'])

    own = dict(classifier.named_parameters())
    norms = {k.removeprefix('gradnorm/'): v for k, v in data.items() if k.startswith('gradnorm/')}
    assert len(norms) == len(own)
    for official, norm in norms.items():
        assert_equal(own[own_name(official)].grad.norm(), norm)
    full = {k.removeprefix('grad/'): v for k, v in data.items() if k.startswith('grad/')}
    assert len(full) == 4
    for official, grad in full.items():
        assert_equal(own[own_name(official)].grad, grad)


def own_name(official: str) -> str:
    """Name in LITv2Classifier of a parameter of the official classifier."""
    if official.startswith('head.'):
        return official
    (name, ) = from_official({official: torch.empty(0)})
    return f'backbone.{name}'


def test_six_sgd_steps(golden, classifier):
    data = golden('official_sgd')
    assert re.match('seed-3 generator; per step randn.4,3,64,64.', str(data['recipe']))
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05)
    classifier.train()
    for expected in data['losses']:
        x = torch.randn(4, 3, 64, 64, generator=generator).double()
        y = torch.randint(0, 10, (4, ), generator=generator)
        loss = F.cross_entropy(classifier(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_equal(loss.detach(), expected)
    classifier.eval()
    assert_equal(classifier(golden('official_cls')['x'].double()), data['logits_after'])


@pytest.mark.parametrize('window', [2, 3, 4])
@pytest.mark.parametrize('task, norms', [('det', (1, 2, 3)), ('seg', (0, 1, 2, 3))])
def test_dense_maps(golden, task, norms, window):
    data = golden(f'official_{task}')
    backbone = LITv2(
        GOLDEN_ARCH, out_indices=(0, 1, 2, 3), norm_indices=norms, window_size=[0, 0, window, 1],
        init_cfg=dict(type='Pretrained', checkpoint=str(DATA / f'official_{task}.pth')))
    backbone.init_weights()
    backbone.double().eval()
    sizes = [k.removeprefix('x_') for k in data if k.startswith('x_')]
    assert len(sizes) == 3
    for size in sizes:
        outs = backbone(data[f'x_{size}'].double())
        assert len(outs) == 4
        for i, out in enumerate(outs):
            assert_equal(out, data[f'ws{window}_{size}_out{i}'])


def test_openmixup_classifier(golden):
    data = golden('openmixup_lit')
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10, init_values=1e-6)
    load_checkpoint(model, DATA / 'openmixup_lit.pth')
    model.double().eval()
    x = data['x'].double()
    assert_equal(model.backbone(x)[-1], data['feat'])
    assert_equal(model(x), data['logits'])


@torch.no_grad()
@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_other_dtypes(golden, classifier, dtype, tolerance, compiled, form):
    """float32 and bfloat16 have fast forms that float64 has not."""
    data = golden('official_cls')
    model = classifier.to(dtype)
    if compiled:
        model = torch.compile(model, backend='aot_eager', fullgraph=True)
    logits = model(data['x'].to(dtype)).double()
    assert (logits - data['logits']).norm() < tolerance * data['logits'].norm()
