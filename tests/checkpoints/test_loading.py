"""Right, or refused with the model as it was."""
import copy
import logging

import pytest
import torch
from torch import nn

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.checkpoints import describe, fill_model
from mmlit.checkpoints import loading as loading_module
from mmlit.checkpoints.layouts import adapt_channels
from mmlit.errors import CheckpointError

from ..conftest import DATA, GOLDEN_ARCH

OFFICIAL = DATA / 'official_cls.pth'
FC = 'layers.2.blocks.0.mlp.fc1.weight'


def classifier(**kwargs) -> LITv2Classifier:
    return LITv2Classifier(GOLDEN_ARCH, **{'num_classes': 10, **kwargs})


@pytest.fixture
def official():
    return torch.load(OFFICIAL, weights_only=True)['model']


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(loading_module, 'print_log',
                        lambda message, logger, level: lines.append((message, level)))
    return lines


def refused(model: nn.Module, checkpoint: dict, match: str, **kwargs) -> None:
    """It is refused, and no weight of the model has changed."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=match):
        fill_model(model, checkpoint, 'x.pth', **kwargs)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def quantized(t):
    return torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)


@pytest.mark.parametrize('change, match', [
    (lambda t: t.to(torch.int8), 'torch.int8, where weights are floating point'),
    (lambda t: (t * 100).to(torch.int32), 'torch.int32'),
    (lambda t: t > 0, 'torch.bool'),
    (lambda t: t.to(torch.complex64), 'torch.complex64'),
    (lambda t: t.to(torch.float8_e4m3fn), 'float8'),
    (lambda t: t.to_sparse(), 'sparse'),
    (lambda t: t.to_sparse_csr(), 'sparse'),
    (lambda t: t.to('meta'), 'no numbers'),
    (quantized, 'quantized'),
    (lambda t: torch.nested.nested_tensor([t, t[:2]]), 'nested'),
    (lambda t: t[0, 0].expand(2**20, 2**20), 'would take 4096 GiB'),
    (lambda t: t[:-1], 'another shape'),
    (lambda t: t.double() * 1e200, 'too large for torch.float32'),
])
@pytest.mark.parametrize('strict', [True, False])
def test_what_cannot_be_copied_changes_nothing(official, change, match, strict):
    official[FC] = change(official[FC])
    refused(classifier(), dict(model=official), match, strict=strict)


def test_names_that_are_no_strings_change_nothing(official):
    refused(classifier(), dict(model={**official, 3: torch.ones(1)}), "'3' in it is no name")


def test_numbers_must_be_finite_in_the_dtype_of_the_model(official):
    official[FC][0, 0] = 1e5
    load_checkpoint_into = classifier()
    fill_model(load_checkpoint_into, dict(model=official), 'x.pth', strict=True)
    refused(classifier().half(), dict(model=official), 'too large for torch.float16', strict=True)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_floating_point_dtypes_are_converted(official, dtype):
    model = classifier()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in official.items()}
    fill_model(model, dict(model=state), 'x.pth', strict=True)
    weight = model.backbone.stages[2].blocks[0].ffn.fc1.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, state[FC].float())


def test_a_model_without_memory_is_refused(official):
    with torch.device('meta'):
        model = classifier()
    with pytest.raises(CheckpointError, match='on the device meta'):
        fill_model(model, dict(model=official), 'x.pth')


@pytest.mark.parametrize('prefix', [
    'model.', 'net.', 'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.',
    'model._orig_mod.', 'backbone._orig_mod.', 'backbone.module.', 'model.backbone.',
    '_fsdp_wrapped_module.', 'ema_model.module.', 'averaged_model.'])
@pytest.mark.parametrize('ours', [True, False])
def test_prefixes_of_wrappers(official, prefix, ours):
    if ours:
        source = classifier()
        fill_model(source, dict(model=official), 'x.pth')
        official = {k.removeprefix('backbone.'): v for k, v in source.state_dict().items()}
    outer = '' if prefix.startswith('backbone.') else prefix.removesuffix('backbone.')
    state = {(outer if k.startswith('head.') else prefix) + k: v for k, v in official.items()}
    model, twin = classifier(), classifier()
    fill_model(model, dict(state_dict={**state, 'n_averaged': torch.tensor(3)}), 'x.pth',
               strict=True)
    fill_model(twin, dict(model=official), 'x.pth', strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


# Names that equal the model's own.


class Pair(nn.Module):
    """As AutoMix and teachers: several backbones."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, LITv2(GOLDEN_ARCH))
        self.register_buffer('ema_backbone_weight', torch.zeros(3))


@pytest.mark.parametrize('names', [('backbone', 'backbone_k'), ('student', 'teacher'),
                                   ('encoder_q', 'encoder_k')])
@pytest.mark.parametrize('strict', [True, False])
def test_own_names_need_no_layout(names, strict):
    source, model = Pair(*names), Pair(*names)
    source.ema_backbone_weight += 2
    fill_model(model, dict(state_dict=source.state_dict()), 'x.pth', strict=strict)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize('wrapped', ['', 'module.', '_orig_mod.'])
def test_models_without_litv2_load_their_own_files(wrapped):
    def plain():
        return nn.ModuleDict(dict(backbone=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
                                  head=nn.Linear(4, 2)))

    source, model = plain(), plain()
    state = {wrapped + k: v for k, v in source.state_dict().items()}
    fill_model(model, dict(state_dict=state), 'x.pth', strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    refused(plain(), dict(model=torch.load(OFFICIAL, weights_only=True)['model']),
            'of another model')


def test_several_backbones_in_a_file():
    source = {k: v for k, v in Pair('teacher', 'student').state_dict().items() if 'ema' not in k}
    model = LITv2(GOLDEN_ARCH)
    refused(model, dict(state_dict=source), r"under \['student.', 'teacher.'\]: say which")
    fill_model(model, dict(state_dict=source), 'x.pth', prefix='teacher')
    name = 'patch_embed.proj.weight'
    assert torch.equal(model.state_dict()[name], source[f'teacher.{name}'])
    refused(model, dict(state_dict=source), 'no backbone stands under', prefix='nobody')
    automix = Pair('backbone', 'backbone_k').state_dict()
    fill_model(model, dict(state_dict=automix), 'x.pth')
    assert torch.equal(model.state_dict()[name], automix[f'backbone.{name}'])


def test_prefix_in_a_config(tmp_path):
    source = Pair('teacher', 'student').state_dict()
    torch.save(dict(state_dict=source), tmp_path / 'x.pth')
    model = LITv2(GOLDEN_ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'),
                                             prefix='student.'))
    model.init_weights()
    name = 'stages.2.blocks.1.ffn.fc1.weight'
    assert torch.equal(model.state_dict()[name], source[f'student.{name}'])


def test_averages_stay_out_of_models_that_keep_none(official):
    source = classifier()
    averages = {f'ema_{k.replace(".", "_")}': v + 1 for k, v in source.state_dict().items()}
    model = classifier()
    fill_model(model, dict(state_dict={**source.state_dict(), **averages}), 'x.pth', strict=True)
    assert torch.equal(model.head.weight, source.head.weight)


# Channels of images.


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 6, 13])
def test_channels_are_adapted_as_timm_does(channels):
    timm = pytest.importorskip('timm')
    weight = torch.randn(5, 3, 4, 4)
    expected = timm.models.adapt_input_conv(channels, weight)
    torch.testing.assert_close(adapt_channels(weight, channels), expected)


def test_a_grey_image_gives_what_its_three_channels_gave(said):
    rgb, grey = classifier(), classifier(in_channels=1)
    load_checkpoint(rgb, OFFICIAL)
    load_checkpoint(grey, OFFICIAL)
    assert 'images have 1 channels, not 3' in said[-1][0] and said[-1][1] == logging.WARNING
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(grey.eval()(x), rgb.eval()(x.expand(-1, 3, -1, -1)))
    with pytest.raises(CheckpointError, match='patch_embed.proj.weight'):
        load_checkpoint(classifier(in_channels=4), OFFICIAL, strict=True)


# Settings that weights do not show.


@pytest.mark.parametrize('change', [
    dict(arch=dict(GOLDEN_ARCH, num_heads=[1, 2, 2, 8]), alpha=0.5), dict(alpha=0.8),
    dict(act_cfg=dict(type='ReLU')), dict(window_size=(0, 0, 4, 1)),
    dict(norm_cfg=dict(type='LN', eps=1e-6)), dict(conv_norm_cfg=dict(type='BN', eps=1e-3))],
    ids=lambda c: next(reversed(c)))
def test_other_meanings_of_equal_shapes_are_named(said, change):
    arguments = dict(arch=GOLDEN_ARCH)
    if 'arch' in change:
        arguments.update(alpha=0.5)
    made = LITv2(**arguments)
    checkpoint = dict(state_dict=made.state_dict(), meta=describe(made))
    fill_model(LITv2(**arguments), checkpoint, 'x.pth', resume=True)
    assert said.pop()[1] == logging.INFO
    other = LITv2(**{**arguments, **change})
    name, = {'conv_norm_cfg': ['conv_norm_eps'], 'arch': ['num_heads']}.get(
        next(iter(change)), list(change)[:1])
    if 'arch' in change:
        refused(other, checkpoint, 'another shape|num_heads was', resume=True)
        return
    fill_model(other, checkpoint, 'x.pth')
    message, level = said[-1]
    assert level == logging.WARNING and f'made with other settings: {name} was' in message
    refused(other, checkpoint, f'{name} was .* Resume with the same', resume=True)


def test_files_of_others_say_nothing(said):
    for meta in (None, 'text', {}, dict(mmlit='1.0'), dict(mmlit=dict(unknown=1)), dict(seed=3)):
        model = classifier()
        fill_model(model, dict(state_dict=model.state_dict(), meta=meta), 'x.pth', resume=True)
        assert said.pop()[1] == logging.INFO
