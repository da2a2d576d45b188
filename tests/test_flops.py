import pytest
import torch
from torch import nn

from mmlit import LITv2, LITv2Classifier
from mmlit.analysis import count_flops, flops_by_module, official_flops
from mmlit.models import HiLoAttention
from mmlit.models.merging import DeformConv2d

from .conftest import GOLDEN_ARCH

IMAGENET = (3, 224, 224)


@pytest.fixture(autouse=True)
def no_initialisation(monkeypatch):
    """Counting needs no good weights, and drawing those of large models takes seconds."""
    monkeypatch.setattr(LITv2, '_reset_parameters', lambda self: None)


@pytest.mark.parametrize('arch, official, computed', [
    ('small', 3_734_401_596, 3_723_626_496),
    ('medium', 7_479_237_180, 7_463_043_072),
    ('base', 13_193_561_148, 13_171_973_120),
])
def test_variants(arch, official, computed):
    model = LITv2Classifier(arch)
    assert official_flops(model, IMAGENET) == official
    assert count_flops(model, IMAGENET) == computed
    if arch == 'base':
        assert f'{official_flops(model, (3, 384, 384)) / 1e9:.1f}' == '39.7'


@pytest.mark.parametrize('alpha, published', [
    (0.0, '3.97'),
    (0.2, '3.88'),
    (0.4, '3.82'),
    (0.5, '3.77'),
    (0.7, '3.74'),
    (0.9, '3.73'),
    (1.0, '3.70'),
])
def test_share_of_lofi_heads(alpha, published):
    flops = official_flops(LITv2Classifier('small', alpha=alpha), IMAGENET)
    if alpha == 1.0:
        # By the release's formula 3.75 G: the printed figure leaves out the attention products of
        # stage 3's six blocks (196 queries, 49 keys, 384 channels, two products).
        assert f'{flops / 1e9:.2f}' == '3.75'
        flops -= 6 * 196 * 49 * 384 * 2
    assert f'{flops / 1e9:.2f}' == published


def test_one_hilo_layer():
    layer = HiLoAttention(768, 12, window_size=2, alpha=0.9)
    assert f'{count_flops(layer, (14, 14, 768)) / 1e6:.1f}' == '298.3'
    assert f'{sum(p.numel() for p in layer.parameters()) / 1e6:.1f}' == '2.2'


@pytest.mark.parametrize('size', [(64, 64), (64, 160)])
def test_formula_and_counter_differ_by_what_is_documented(size):
    """The maps need no padding here."""
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10).eval()
    shape = (3, *size)
    difference = official_flops(model, shape) - count_flops(model, shape)
    extra = []
    # The first convolution's bias is not in the formula; offsets' is added with their layer.
    counted = [model.backbone.patch_embed.proj,
               *(s.downsample.dconv.conv_offset for s in model.backbone.stages[:-1])]

    def add(module, args, out):
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            last = module is model.backbone.norm3
            extra.append(out.numel() * (4 if last else 1))
        elif isinstance(module, DeformConv2d):
            positions, taps = out[..., 0].numel(), module.conv_offset.weight[0].numel()
            extra.append(out.numel() + positions * (12 + 4 * taps))
        elif isinstance(module, nn.Conv2d) and module not in counted:
            extra.append(out.numel())

    for module in model.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    assert difference == sum(extra)


def test_padding_is_counted_where_it_is_computed():
    layer = HiLoAttention(32, 4, window_size=4, alpha=0.5)
    hi = lo = 16
    tokens, padded, windows = 5 * 6, 8 * 8, 4
    flops = flops_by_module(layer, (5, 6, 32))
    assert {k: flops[k] for k in ('l_q', 'l_kv', 'l_proj', 'h_qkv', 'h_proj')} == dict(
        l_q=tokens * 32 * lo, l_kv=windows * 32 * 2 * lo, l_proj=tokens * lo * lo,
        h_qkv=padded * 32 * 3 * hi, h_proj=padded * hi * hi)
    attention = 2 * tokens * windows * lo + 2 * padded * 16 * hi
    assert flops[''] == sum(v for k, v in flops.items() if k) + attention


def test_modules_add_up():
    model = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    flops = flops_by_module(model, (3, 70, 110))
    assert list(flops) == [name for name, _ in model.named_modules()]
    assert flops['head'] == 128 * 10
    assert flops['backbone.patch_embed.proj'] == 18 * 28 * 16 * 3 * 4 * 4
    assert flops['backbone.stages.0.blocks.0.ffn.dwconv'] == 18 * 28 * 64 * 9
    # 18 x 28 tokens become 9 x 14; 8 channels are offsets.
    assert flops['backbone.stages.0.downsample'] == 9 * 14 * (8 + 32) * 16 * 2 * 2
    assert flops['backbone.norm3'] == 0
    for name, module in model.named_modules():
        children = [flops[f'{name}.{child}'.lstrip('.')] for child, _ in module.named_children()]
        if isinstance(module, (HiLoAttention, DeformConv2d)):
            assert flops[name] > sum(children)  # they compute beside their children
        elif children:
            assert flops[name] == sum(children)


def test_dense_backbone():
    classifier = LITv2Classifier(GOLDEN_ARCH, num_classes=10)
    dense = LITv2(GOLDEN_ARCH, out_indices=(0, 1, 2, 3))
    for shape in [(3, 32, 32), (3, 33, 70), (3, 224, 320)]:
        assert count_flops(dense, shape) == count_flops(classifier, shape) - 128 * 10
    # Stages after the last output do not run.
    early = flops_by_module(LITv2(GOLDEN_ARCH, out_indices=(0, 1)), (3, 64, 96))
    assert early['stages.1.blocks'] > 0
    assert early['stages.1.downsample'] == early['stages.2'] == 0


def test_model_is_left_as_it_is():
    model = LITv2(GOLDEN_ARCH, frozen_stages=1, drop_path_rate=0.5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    parameters, modes = list(model.parameters()), [m.training for m in model.modules()]
    requires_grad = [p.requires_grad for p in parameters]
    count_flops(model, (3, 32, 32))
    assert [m.training for m in model.modules()] == modes
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [p.requires_grad for p in parameters] == requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model(torch.zeros(2, 3, 32, 32))[0].shape == (2, 128, 1, 1)


def test_any_dtype():
    model = LITv2(GOLDEN_ARCH)
    expected = count_flops(model, (3, 64, 64))
    assert count_flops(model.bfloat16(), (3, 64, 64)) == expected
    assert count_flops(model.double(), (3, 64, 64)) == expected
