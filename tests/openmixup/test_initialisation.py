"""A model under mmlit begins as under openmixup: what is copied or loaded there stays so here."""
import pytest
import torch

from mmlit.models import LITv2
from mmlit.openmixup.trainer import build_model

from . import models


class Config(dict):
    filename = 'config.py'

    def __init__(self, model: dict):
        super().__init__(model=model)
        self.model = model


def build(model: dict):
    return build_model(Config(model))


def distance(a, b) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A file of a backbone's weights, and that backbone."""
    torch.manual_seed(5)
    options = models.backbone(out_indices=(2, 3))
    source = LITv2(**{k: v for k, v in options.items() if k != 'type'})
    path = tmp_path_factory.mktemp('initialisation') / 'backbone.pth'
    torch.save(source.state_dict(), path)
    return str(path), source


TEACHERS = {
    'AutoMix': (models.automix, 'backbone_q', 'backbone_k'),
    'SAMix': (models.samix, 'backbone_q', 'backbone_k'),
    'AdAutoMix': (models.adautomix, 'backbone_q', 'backbone_k'),
    'BYOL': (models.byol, 'online_net.0', 'target_net.0'),
    'MoCo': (models.moco, 'encoder_q.0', 'encoder_k.0'),
    'MoCoV3': (models.mocov3, 'base_encoder.0', 'momentum_encoder.0'),
    'FixMatch': (models.fixmatch, 'encoder.0', 'encoder_k.0'),
    'MixUpClassification': (
        lambda backbone: models.mixup('attentivemix', backbone, backbone_k=dict(backbone)),
        'backbone', 'backbone_k'),
}


@pytest.mark.parametrize('pretrained', [False, True])
@pytest.mark.parametrize('name', TEACHERS)
def test_the_teacher_begins_as_a_copy_of_the_student(name, pretrained, checkpoint):
    make, student, teacher = TEACHERS[name]
    path, source = checkpoint
    options = dict(init_cfg=dict(type='Pretrained', checkpoint=path)) if pretrained else {}
    model = build(make(models.backbone(out_indices=(2, 3), **options)))
    student, teacher = map(model.get_submodule, (student, teacher))
    assert distance(student, teacher) == 0
    assert (distance(student, source) == 0) == pretrained


def test_the_pretrained_teacher_is_kept(checkpoint, tmp_path):
    """``pretrained_k``: a whole model, whose teacher and mixing block are taken."""
    model = build(models.automix(models.backbone(out_indices=(2, 3))))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'teacher.pth')
    path, source = checkpoint
    student = models.backbone(out_indices=(2, 3), init_cfg=dict(type='Pretrained', checkpoint=path))
    loaded = build(models.automix(student, pretrained_k=str(tmp_path / 'teacher.pth')))
    assert distance(loaded.backbone_k, model.backbone_k) == 0
    assert distance(loaded.mix_block, model.mix_block) == 0
    assert distance(loaded.backbone_q, source) == 0


def test_a_teacher_of_its_own_is_read(checkpoint):
    """MixUpClassification's ``backbone_k`` with ``pretrained_k``, beside a fresh student."""
    path, source = checkpoint
    model = build(models.mixup('attentivemix', models.backbone(out_indices=(2, 3)),
                               backbone_k=models.backbone(out_indices=(2, 3)), pretrained_k=path))
    assert distance(model.backbone_k, source) == 0 < distance(model.backbone, source)


@pytest.mark.parametrize('make', [
    lambda b: models.mixup('mixup', b),
    lambda b: dict(type='Classification', backbone=b, head=dict(models.HEAD)),
    models.simsiam, models.fixmatch])
def test_pretrained_weights_of_the_backbone_are_read(make, checkpoint):
    path, source = checkpoint
    model = build(make(models.backbone(
        out_indices=(2, 3), init_cfg=dict(type='Pretrained', checkpoint=path))))
    (backbone, *_) = [m for m in model.modules() if isinstance(m, LITv2)]
    assert distance(backbone, source) == 0


def test_other_configs_of_initialisation_are_read():
    rule = dict(type='Constant', layer='Linear', val=0.25)
    model = build(models.mixup('mixup', models.backbone(init_cfg=rule)))
    linears = [m.weight for m in model.backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert linears and all((w == 0.25).all() for w in linears)
