"""LITv2 as a backbone of mmdet 3 and mmseg 1."""
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mmdet
import mmdet.models
import mmseg.models  # noqa: F401
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from PIL import Image

import mmlit

from ..conftest import DATA, GOLDEN_ARCH

ROOT = Path(__file__).parents[2]
DEMO = ROOT / 'configs/classification/digits/lit_v2_digits_sz64_bs64_ep12.py'


@pytest.mark.parametrize('name', ['LITv2', 'mmlit.LITv2'])
@pytest.mark.parametrize('registry', [MMDET_MODELS, MMSEG_MODELS], ids=['mmdet', 'mmseg'])
def test_registered(registry, name):
    backbone = registry.build(dict(type=name, arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3)))
    assert type(backbone) is mmlit.LITv2


def test_custom_imports_are_enough():
    code = f'''
from mmengine.config import Config
Config.fromstring("custom_imports = dict(imports=['mmlit'])", '.py')
from mmdet.registry import MODELS
print(type(MODELS.build(dict(type='LITv2', arch={GOLDEN_ARCH}))))
'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                          text=True)
    assert 'mmlit.models.litv2.LITv2' in done.stdout, done.stderr


def test_trains_with_mmdets_own_tool(tmp_path):
    """There only `custom_imports` names mmlit. The Runner imports torchvision, if there is one."""
    Image.new('RGB', (96, 64)).save(tmp_path / 'image.png')
    (tmp_path / 'coco.json').write_text(json.dumps(dict(
        images=[dict(id=0, file_name='image.png', width=96, height=64)],
        annotations=[dict(id=0, image_id=0, category_id=0, bbox=[9, 9, 50, 40], area=2000,
                          iscrowd=0)],
        categories=[dict(id=0, name='thing')])))
    (tmp_path / 'config.py').write_text(f'''
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['mmlit'])
work_dir = {str(tmp_path)!r}
model = dict(
    backbone=dict(_delete_=True, type='LITv2', arch={GOLDEN_ARCH}, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels={GOLDEN_ARCH['embed_dims']}, out_channels=16),
    bbox_head=dict(num_classes=1, in_channels=16, feat_channels=16, stacked_convs=1))
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='CocoDataset', data_root=work_dir, ann_file='coco.json',
                 data_prefix=dict(img=''), metainfo=dict(classes=('thing', )), pipeline=[
                     dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                     dict(type='PackDetInputs')]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=1))
''')
    tool = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'mmlit.run', tool,
                           tmp_path / 'config.py'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'iter_1.pth').exists()
    assert ('TorchVision:' in done.stdout) == (find_spec('torchvision') is not None)


def test_retinanet_trains_and_predicts():
    init_default_scope('mmdet')
    cfg = Config.fromstring("_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'", '.py')
    cfg.model.backbone = dict(
        type='LITv2', arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3), norm_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint=str(DATA / 'official_det.pth')))
    cfg.model.neck.in_channels = GOLDEN_ARCH['embed_dims']
    model = MMDET_MODELS.build(cfg.model)
    model.init_weights()
    saved = torch.load(DATA / 'official_det.pth', weights_only=True)['state_dict']
    prefix = 'backbone.' if 'backbone.patch_embed.proj.weight' in saved else ''
    assert torch.equal(model.backbone.patch_embed.proj.weight,
                       saved[f'{prefix}patch_embed.proj.weight'])

    images = [torch.randint(0, 256, (3, 96, 70), dtype=torch.uint8) for _ in range(2)]
    samples = []
    for _ in images:
        sample = DetDataSample(metainfo=dict(img_shape=(96, 70), ori_shape=(96, 70),
                                             scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[5., 5., 40., 60.]]), labels=torch.tensor([1]))
        samples.append(sample)
    data = dict(inputs=images, data_samples=samples)
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    sum(sum(v) if isinstance(v, list) else v for v in losses.values()).backward()
    unused = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert unused == []
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(data, False), mode='predict')
    assert len(results) == 2 and results[0].pred_instances.bboxes.shape[1] == 4


def test_semantic_fpn_trains_and_predicts():
    init_default_scope('mmseg')
    cfg = Config.fromstring("_base_ = 'mmseg::_base_/models/fpn_r50.py'", '.py')
    cfg.model.data_preprocessor.size = (64, 96)
    cfg.model.backbone = dict(type='LITv2', arch=GOLDEN_ARCH, out_indices=(0, 1, 2, 3))
    cfg.model.pretrained = None
    cfg.model.neck.in_channels = GOLDEN_ARCH['embed_dims']
    cfg.model.decode_head.norm_cfg = dict(type='BN')
    model = MMSEG_MODELS.build(cfg.model)
    model.init_weights()
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    samples = []
    for _ in images:
        sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, 64, 96)))
        samples.append(sample)
    data = dict(inputs=images, data_samples=samples)
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    losses['decode.loss_ce'].backward()
    assert [n for n, p in model.backbone.named_parameters() if p.grad is None] == []
    cfg.model.data_preprocessor.size = None
    model.eval()
    with torch.no_grad():
        results = model(torch.stack(images).float(), mode='tensor')
    assert results.shape[:2] == (2, 19)


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_freezes_what_mmdets_swin_freezes(frozen):
    """Stage for stage: the embedding, the stages with their merging, the outputs' norms."""
    swin = MMDET_MODELS.build(dict(
        type='mmdet.SwinTransformer', embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        frozen_stages=frozen))
    litv2 = mmlit.LITv2(GOLDEN_ARCH, out_indices=(0, 1, 2, 3), frozen_stages=frozen)

    def trained(model):
        model.train()
        return {'.'.join(n.split('.')[:2 if n.startswith('stages') else 1])
                for n, p in model.named_parameters() if p.requires_grad}

    assert trained(litv2) == trained(swin)
    for i in range(4):
        assert litv2.stages[i].training == swin.stages[i].training == (i >= frozen)


def test_configs_of_toolkits_that_are_not_there(tmp_path):
    hide = ('import runpy, sys; sys.modules.update(openmixup=None); sys.argv = sys.argv[1:]; '
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, '-c', hide, ROOT / 'tools/train.py', DEMO],
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
    assert done.stderr.strip().endswith('has not: python -m mmlit.install_openmixup')
