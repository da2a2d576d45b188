"""Whatever a checkpoint holds: a model is filled rightly, or not at all, with one error."""
import copy
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmlit import LITv2, LITv2Classifier, load_checkpoint
from mmlit.checkpoints import convert, fill_model
from mmlit.errors import CheckpointError

from ..conftest import DATA, GOLDEN_ARCH

WEIGHT = 'backbone.stages.2.blocks.0.attn.l_q.weight'
BIAS = 'backbone.stages.0.blocks.0.norm2.bias'


def classifier(num_classes=10, **kwargs) -> LITv2Classifier:
    return LITv2Classifier(GOLDEN_ARCH, num_classes, **kwargs).eval()


@pytest.fixture(scope='module')
def official() -> dict:
    return torch.load(DATA / 'official_cls.pth', weights_only=True)['model']


@pytest.fixture(scope='module')
def own(official) -> dict:
    """The same weights in the names of mmlit's classifier."""
    _, backbone, rest = convert(official)
    return {**{f'backbone.{k}': v for k, v in backbone.items()}, **rest}


def snapshot(model: nn.Module) -> dict:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(model: nn.Module, state: dict) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def filled(state, model=None, **kwargs) -> nn.Module:
    model = classifier() if model is None else model
    fill_model(model, state, 'test', **kwargs)
    return model


# Types, shapes and memory. Each has a weight of the model replaced.


def quantized(v):
    return torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)


BAD = dict(
    int8=lambda v: v.to(torch.int8), uint8=lambda v: (v > 0).to(torch.uint8),
    int64=lambda v: v.to(torch.int64), boolean=lambda v: v > 0,
    complex=lambda v: v.to(torch.complex64), float8=lambda v: v.to(torch.float8_e4m3fn),
    float8_e5m2=lambda v: v.to(torch.float8_e5m2), quantized=quantized,
    sparse=lambda v: v.to_sparse(), meta=lambda v: v.to('meta'),
    terabytes=lambda v: torch.zeros(1).expand(10**6, 10**7), 
    empty=lambda v: torch.zeros(0), scalar=lambda v: torch.tensor(1.),
    flat=lambda v: v.reshape(-1, 1, 1), nan=lambda v: v / 0 * 0,
    infinite=lambda v: v + float('inf'), too_large=lambda v: v.double() + 1e300,
    nested=lambda v: torch.nested.nested_tensor([v, v]),
    lazy=lambda v: nn.parameter.UninitializedParameter(),
    no_tensor=lambda v: v.tolist(), nothing=lambda v: None)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', BAD)
def test_what_is_no_weight_is_refused_and_the_model_stays(own, kind):
    model = classifier()
    before = snapshot(model)
    for name in (WEIGHT, BIAS, 'backbone.stages.0.downsample.norm.running_mean'):
        for strict in (False, True):
            with pytest.raises(CheckpointError, match=re.escape(name)):
                filled({**own, name: BAD[kind](own[name])}, model, strict=strict)
    assert_same(model, before)


@pytest.mark.parametrize('key', [1, None, (1, 2), b'name', 1.5, True])
def test_names_are_texts(own, key):
    model = classifier()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match='is no name of a weight'):
        filled({**own, key: torch.zeros(2)}, model)
    assert_same(model, before)


GOOD = dict(
    expanded=lambda v: v[:1].expand(v.shape), int_like=lambda v: v.round(),
    float16=lambda v: v.half(), bfloat16=lambda v: v.bfloat16(), float64=lambda v: v.double(),
    transposed=lambda v: v.mT.contiguous().mT, parameter=lambda v: nn.Parameter(v.clone()),
    slice_of_more=lambda v: torch.cat([v, v])[:len(v)],
    every_second=lambda v: v.repeat_interleave(2, dim=0)[::2],
    contiguous=lambda v: v.clone())


@pytest.mark.parametrize('kind', GOOD)
def test_other_precisions_and_strides_are_loaded(own, kind):
    value = GOOD[kind](own[WEIGHT])
    model = filled({**own, WEIGHT: value}, strict=True)
    assert_same(model, {**own, WEIGHT: value.detach().float()})


@pytest.mark.parametrize('dtype, value', [(torch.float16, 1e5), (torch.float32, 1e39),
                                          (torch.bfloat16, -1e39)])
def test_numbers_that_the_models_dtype_cannot_hold_are_refused(own, dtype, value):
    state = {**own, BIAS: own[BIAS].double().index_fill(0, torch.tensor([2]), value)}
    model = classifier().to(dtype)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match='too large for'):
        filled(state, model, strict=True)
    assert_same(model, before)
    assert filled(state, classifier().double(), strict=True).state_dict()[BIAS][2] == value


@pytest.mark.parametrize('count, right', [
    (torch.tensor(7), True), (torch.tensor(7, dtype=torch.int32), True), (torch.tensor(7.), True),
    (torch.tensor(7.5), False), (torch.tensor(True), False), (torch.tensor([7]), False)])
def test_counts_are_loaded_exactly_or_not_at_all(own, count, right):
    name = 'backbone.stages.0.downsample.norm.num_batches_tracked'
    state = {**own, name: count}
    if right:
        assert filled(state, strict=True).state_dict()[name] == 7
    else:
        with pytest.raises(CheckpointError, match=name):
            filled(state, strict=True)


# Models that cannot be written.


class Stubborn(nn.Linear):
    """Its own loading fails after it has written a weight."""

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        raise TypeError('not today')


def make_meta():
    with torch.device('meta'):
        return classifier()


def make_inference():
    with torch.inference_mode():
        return classifier()


def make_stubborn():
    model = classifier()
    model.head = Stubborn(128, 10)
    return model


def make_expanded():
    model = classifier()
    model.head.bias = nn.Parameter(torch.zeros(1).expand(10), requires_grad=False)
    return model


def make_lazy():
    model = classifier()
    model.head = nn.LazyLinear(10)
    return model


@pytest.mark.parametrize('make, message', [
    (make_meta, 'device meta'), (make_inference, 'inference tensor'), (make_stubborn, 'not today'),
    (make_expanded, 'cannot be copied into the model, which is as it was'),
    (make_lazy, 'has no shape yet')])
def test_a_model_that_cannot_be_written_stays_as_it_was(own, make, message):
    model = make()
    is_lazy, is_meta = make is make_lazy, make is make_meta
    before = None if is_lazy or is_meta else snapshot(model)
    with pytest.raises(CheckpointError, match=message):
        filled(own, model)
    if before:
        assert_same(model, before)


def test_frozen_and_tied_weights_are_loaded(own):
    model = classifier().requires_grad_(False)
    model.copy = model.head  # two names
    both = {**own, 'copy.weight': own['head.weight'], 'copy.bias': own['head.bias']}
    for state in (both, own):  # as torch.save writes them, and as safetensors does
        assert_same(filled(state, model, strict=True), both)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match='one weight in the model and two in it'):
        filled({**both, 'copy.bias': own['head.bias'] + 1}, model, strict=True)
    assert_same(model, before)


# Wrappers.


@pytest.mark.parametrize('names', ['official', 'own'])
@pytest.mark.parametrize('prefix', [
    'model.', 'net.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'ema_model.module.',
    'model._orig_mod.', 'lit.model.net.', '_fsdp_wrapped_module.'])
def test_prefixes_of_lightning_compile_and_averages(official, own, names, prefix):
    state = official if names == 'official' else own
    model = filled({prefix + k: v for k, v in state.items()}, strict=True)
    assert_same(model, own)


@pytest.mark.parametrize('wrapper', ['_orig_mod.', '_checkpoint_wrapped_module.', 'module.'])
def test_wrappers_inside_of_a_model(own, wrapper):
    state = {k.replace('backbone.', f'backbone.{wrapper}'): v for k, v in own.items()}
    assert_same(filled(state, strict=True), own)
    if wrapper != 'module.':
        state = {k.replace('blocks.0.', f'blocks.0.{wrapper}'): v for k, v in own.items()}
        assert_same(filled(state, strict=True), own)


@pytest.mark.parametrize('count', ['steps', 'n_averaged'])
@pytest.mark.parametrize('names', ['official', 'own'])
def test_averages_with_a_count(official, own, names, count):
    state = official if names == 'official' else own
    state = {**{f'module.{k}': v for k, v in state.items()}, count: torch.tensor(9)}
    assert_same(filled(state, strict=True), own)


@pytest.mark.parametrize('names', ['official', 'own'])
def test_models_in_wrappers_are_filled(official, own, names):
    state = official if names == 'official' else own
    inner = classifier()
    fill_model(torch.compile(inner), state, 'test', strict=True)
    assert_same(inner, own)
    averaged = AveragedModel(classifier())
    fill_model(averaged, state, 'test')
    assert_same(averaged.module, own)
    wrapped = nn.Sequential(OrderedDict(module=classifier()))
    fill_model(wrapped, state, 'test', strict=True)
    assert_same(wrapped.module, own)


# Copies of EMAHook.


def with_averages(state: dict) -> dict:
    return {**state, **{f'ema_{k.replace(".", "_")}': v + 1 for k, v in state.items()}}


def test_averages_are_loaded_left_out_with_a_note_or_refused(own):
    state = with_averages(own)
    model = classifier()
    for name, value in own.items():
        model.register_buffer(f'ema_{name.replace(".", "_")}', torch.zeros_like(value))
    assert_same(filled(state, model, resume=True), state)
    with pytest.raises(CheckpointError, match='lacks ema_backbone'):
        filled(own, model, resume=True)
    assert_same(filled(state, strict=True), own)
    with pytest.raises(CheckpointError, match='resume with the EMAHook'):
        filled(state, resume=True)


# Several backbones.


class Pair(nn.Module):
    """As Soft Teacher."""

    def __init__(self, student='student', teacher='teacher'):
        super().__init__()
        self.add_module(student, classifier())
        self.add_module(teacher, classifier())


class Queries(nn.Module):
    """As MoCo: the backbone that it shows is a part of one of its encoders."""

    def __init__(self):
        super().__init__()
        self.encoder_q = nn.Sequential(LITv2(GOLDEN_ARCH), nn.Linear(4, 4))
        self.encoder_k = nn.Sequential(LITv2(GOLDEN_ARCH), nn.Linear(4, 4))
        self.backbone = self.encoder_q[0]
        self.register_buffer('queue_ptr', torch.zeros(1, dtype=torch.long))


class Mixed(nn.Module):
    """As AutoMix: it shows the backbone that follows the one that learns."""

    def __init__(self):
        super().__init__()
        self.mix_block = nn.Linear(4, 4)
        self.backbone_q = LITv2(GOLDEN_ARCH)
        self.backbone_k = LITv2(GOLDEN_ARCH)
        self.backbone = self.backbone_k
        self.head = nn.Linear(128, 10)


class Baseline(nn.Module):
    """Any backbone that is no LITv2."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3))
        self.head = nn.Linear(8, num_classes)


class Plain(nn.Module):
    """As a model of timm's."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)


@pytest.mark.parametrize('prefix', ['', 'module.', 'model._orig_mod.'])
@pytest.mark.parametrize('kind', [Pair, Queries, Mixed, Baseline, Plain])
def test_names_that_equal_the_models_own_need_no_layout(kind, prefix):
    source, model = kind(), kind()
    with torch.no_grad():
        for value in source.state_dict().values():
            value.add_(1)
    state = {prefix + k: v for k, v in source.state_dict().items()}
    for kwargs in ({}, dict(strict=True), dict(resume=True)):
        model = kind()
        assert_same(filled(state, model, **kwargs), source.state_dict())


@pytest.mark.parametrize('kind', [Baseline, Plain])
def test_another_number_of_classes_in_any_model(kind):
    source, model = kind(), kind(3)
    head = [k for k in source.state_dict() if k.startswith(('head', 'fc'))]
    before = snapshot(model)
    filled(source.state_dict(), model)
    assert_same(model, {**source.state_dict(), **{k: before[k] for k in head}})
    with pytest.raises(CheckpointError, match='another shape'):
        filled(source.state_dict(), model, strict=True)
    lacking = {k: v for k, v in source.state_dict().items() if 'running_mean' not in k}
    with pytest.raises(CheckpointError, match='lacks .*running_mean'):
        filled(lacking, model)


def test_a_backbone_of_any_kind_alone():
    source, model = Baseline(), Baseline()
    filled(source.backbone.state_dict(), model)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name])


def test_one_backbone_goes_to_each_of_a_model(official, own):
    for state in (official, own):
        model = filled(state, Pair())
        assert_same(model.student, own)
        assert_same(model.teacher, own)
        model = filled(state, Queries())
        backbone = {k.removeprefix('backbone.'): v for k, v in own.items() if 'backbone' in k}
        assert_same(model.encoder_q[0], backbone)
        assert_same(model.encoder_k[0], backbone)
        model = filled(state, Mixed())
        assert_same(model.backbone_q, backbone)
        assert_same(model.backbone_k, backbone)
        assert torch.equal(model.head.weight, own['head.weight'])
        for kind in (Pair, Mixed):  # to resume or to test, each must have its own
            with pytest.raises(CheckpointError, match='does not fit'):
                filled(state, kind(), strict=True)


def test_of_several_backbones_the_models_own_or_the_one_that_is_named():
    pair = Pair()
    state = pair.state_dict()
    model = classifier()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r"several backbones.*prefix='student\.'"):
        filled(state, model)
    with pytest.raises(CheckpointError, match=r"stands under prefix='tutor\.'.*student"):
        filled(state, model, prefix='tutor')
    assert_same(model, before)
    for prefix in ('teacher', 'teacher.', 'student.'):
        assert_same(filled(state, model, strict=True, prefix=prefix),
                    getattr(pair, prefix.strip('.')).state_dict())
    filled(state, model, prefix='teacher.backbone')
    assert_same(model.backbone, pair.teacher.backbone.state_dict())
    mixed = Mixed()
    assert_same(filled(mixed.state_dict(), LITv2(GOLDEN_ARCH)), mixed.backbone.state_dict())
    assert_same(filled(mixed.state_dict(), model).backbone, mixed.backbone.state_dict())


def test_prefixes_in_configs(tmp_path):
    pair = Pair()
    torch.save(dict(state_dict=pair.state_dict()), tmp_path / 'x.pth')
    for prefix in ('teacher.', 'student.backbone.'):
        cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix=prefix)
        backbone = LITv2(GOLDEN_ARCH, init_cfg=cfg)
        backbone.init_weights()
        assert_same(backbone, getattr(pair, prefix.split('.')[0]).backbone.state_dict())
    for prefix in ('neck.', 'backbone.'):
        with pytest.raises(CheckpointError):
            LITv2(GOLDEN_ARCH, init_cfg=dict(cfg, prefix=prefix)).init_weights()


def test_heads_by_either_name(own):
    renamed = {k.replace('head.', 'head.fc.'): v for k, v in own.items()}
    assert_same(filled(renamed, strict=True), own)


@pytest.mark.parametrize('change', ['missing', 'renamed', 'more'])
def test_other_names(own, change):
    state = dict(own)
    value = state.pop(WEIGHT) if change != 'more' else torch.zeros(3)
    if change != 'missing':
        state[f'{WEIGHT}2'] = value
    model = classifier()
    before = snapshot(model)
    for strict in (False, True):
        with pytest.raises(CheckpointError, match='stages.2.blocks.0.attn.l_q.weight'):
            filled(state, model, strict=strict)
    assert_same(model, before)


@pytest.mark.parametrize('make', [
    lambda arch: LITv2Classifier(arch, 10), LITv2, lambda arch: nn.Sequential(LITv2(arch))])
def test_another_depth_is_refused(make):
    """Also a deeper one, all of whose first blocks would find a place."""
    deeper = dict(GOLDEN_ARCH, depths=[1, 1, 3, 1])
    for theirs, ours in ((deeper, GOLDEN_ARCH), (GOLDEN_ARCH, deeper)):
        source, model = LITv2Classifier(theirs, 10), make(ours)
        before = snapshot(model)
        for state in (source.state_dict(), source.backbone.state_dict()):
            with pytest.raises(CheckpointError, match=r'stages\.2\.blocks\.2\.'):
                filled(state, model)
        assert_same(model, before)


def test_the_file_is_not_changed(own):
    state = copy.copy(own)
    filled(state, classifier(in_channels=1))
    assert all(state[k] is own[k] for k in own)


def test_load_checkpoint_fills_any_model(tmp_path):
    source, model = Plain(), Plain()
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'x.pth')
    load_checkpoint(model, tmp_path / 'x.pth', strict=True)
    assert_same(model, source.state_dict())
