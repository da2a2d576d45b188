"""The configs of mmdet, mmseg and mmpretrain: each loads, trains a step and predicts; those for
COCO, ADE20K and ImageNet say what their recipes say, with the published parameters and FLOPs."""
import copy
import json
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.cnn import get_model_complexity_info
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

import mmlit
import mmlit.ops

ROOT = Path(__file__).parents[2] / 'configs'
FOLDERS = ('detection', 'segmentation', 'classification/imagenet/lit_v2/mmpretrain')
CONFIGS = {f.stem: f for folder in FOLDERS for f in sorted((ROOT / folder).rglob('*.py'))
           if '_base_' not in f.parts}
of_a_recipe = pytest.mark.parametrize(
    'name', [name for name, file in CONFIGS.items() if file.parent.name != 'digits'],
    scope='module')
IMAGE = (64, 96)  # height and width

WEIGHTS = 'https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_{}.pth'
ARCHS = {  # channels of the last stage, drop path
    'small': (768, 0.2),
    'medium': (768, 0.2),
    'base': (1024, 0.3),
}
STEPS_1X = {0: 0.001, 250: 0.5, 500: 1, 7999: 1, 8000: 0.1, 10999: 0.1, 11000: 0.01, 11999: 0.01}
STEPS_3X = {0: 0.001, 250: 0.5, 500: 1, 26999: 1, 27000: 0.1, 33000: 0.01, 35999: 0.01}
POLY = {0: 1, 40000: 0.01 + 0.99 * 0.5**0.9, 79999: 0.01}
# `rates` are the learning rates at some iterations, in parts of `lr`.
DETECTION = dict(
    lr=2e-4, weight_decay=1e-4, no_decay=('norm', ), amp=True, batch=2, length=('max_epochs', 12),
    epoch_length=1000, rates=STEPS_1X)
SEGMENTATION = dict(
    model='EncoderDecoder', lr=1e-4, weight_decay=1e-4, no_decay=(), amp=False, batch=2,
    length=('max_iters', 80000), epoch_length=None, rates=POLY)
RECIPES = {
    'retinanet': dict(DETECTION, model='RetinaNet', lr=1e-4),
    'mask-rcnn': dict(DETECTION, model='MaskRCNN'),
    'cascade-mask-rcnn': dict(
        DETECTION, model='CascadeRCNN', length=('max_epochs', 36), rates=STEPS_3X),
    'fpn': SEGMENTATION,
    'upernet': dict(
        SEGMENTATION, lr=6e-5, weight_decay=0.01, no_decay=('norm', ), length=('max_iters', 160000),
        rates={0: 1e-6, 750: 0.5, 1500: 1, 80750: 0.5, 159999: 0}),
    'in1k': dict(
        model='ImageClassifier', lr=1e-3, weight_decay=0.05,
        no_decay=('norm', 'bias', 'gamma', 'offset'), amp=True, batch=128,
        length=('max_epochs', 300), epoch_length=10,
        rates={0: 1e-6, 100: 0.5, 200: 1, 1600: 0.505, 2999: 0.01}),
}
# Millions of parameters and GFLOPs: of 1280x800 for detectors, of 512x512 for segmentors.
PUBLISHED = {
    'retinanet_litv2-s_fpn_1x_coco': (38, 242),
    'retinanet_litv2-s-ws4_fpn_1x_coco': (38, 230),
    'retinanet_litv2-m_fpn_1x_coco': (59, 348),
    'retinanet_litv2-m-ws4_fpn_1x_coco': (59, 312),
    'retinanet_litv2-b_fpn_1x_coco': (97, 481),
    'retinanet_litv2-b-ws4_fpn_1x_coco': (97, 430),
    'mask-rcnn_litv2-s_fpn_1x_coco': (47, 261),
    'mask-rcnn_litv2-s-ws4_fpn_1x_coco': (47, 249),
    'mask-rcnn_litv2-m_fpn_1x_coco': (68, 367),
    'mask-rcnn_litv2-m-ws4_fpn_1x_coco': (68, 315),
    'mask-rcnn_litv2-b_fpn_1x_coco': (106, 500),
    'mask-rcnn_litv2-b-ws4_fpn_1x_coco': (106, 449),
    'litv2-s_fpn_8xb2-80k_ade20k-512x512': (31, 41),
    'litv2-m_fpn_8xb2-80k_ade20k-512x512': (52, 63),
    'litv2-b_fpn_8xb2-80k_ade20k-512x512': (90, 93),
}
# Its published figure lacks the products of attention, which all others have.
WITHOUT_ATTENTION = 'mask-rcnn_litv2-m-ws4_fpn_1x_coco'


def test_every_experiment_has_a_config():
    beyond_the_paper = {
        'cascade-mask-rcnn_litv2-s_fpn_ms-3x_coco', 'litv2-s_upernet_8xb2-160k_ade20k-512x512',
        'litv2-s_8xb128_in1k'}
    assert set(PUBLISHED) | beyond_the_paper <= set(CONFIGS)


read = cache(Config.fromfile)


def load(name: str) -> Config:
    if kind(name) == 'in1k':
        pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    cfg = copy.deepcopy(read(CONFIGS[name]))
    init_default_scope(cfg.default_scope)
    return cfg


def kind(name: str) -> str:
    return next(part for part in name.split('_') if part in RECIPES)


def arch(name: str) -> str:
    letter = name.split('litv2-')[1][0]
    return next(a for a in ARCHS if a[0] == letter)


@pytest.fixture(scope='module', params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture
def cfg(name):
    return load(name)


@pytest.fixture
def recipe(name):
    return RECIPES[kind(name)]


@pytest.fixture
def model(name):
    return built(name)


@lru_cache(maxsize=1)
def built(name: str) -> nn.Module:
    """The config's model as one process on a CPU runs it, without the pretrained weights.

    A fixture of the module's would outlive its name where tests move from one process to another.
    """
    cfg = load(name)
    cfg.model.backbone.init_cfg = None
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    if 'size' in cfg.model.data_preprocessor:
        cfg.model.data_preprocessor.size = IMAGE
    if 'roi_head' in cfg.model:
        # Few proposals save time; what is not trained is sure of nothing.
        cfg.model.train_cfg.rpn_proposal.max_per_img = cfg.model.test_cfg.rpn.max_per_img = 50
        cfg.model.test_cfg.rcnn.update(score_thr=0, max_per_img=10)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def optimizer_of(model: nn.Module, cfg: Config):
    # A CPU has no mixed precision with loss scaling.
    return build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))


# What runs.


def test_a_step_and_a_prediction(name, cfg, model):
    data = BATCHES[cfg.default_scope]()
    optimizer = optimizer_of(model, cfg)
    model.train()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    optimizer.backward(loss)
    # A parameter without a gradient would stop distributed training.
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    weight = model.backbone.patch_embed.proj.weight
    before = weight.clone()
    optimizer.step()
    optimizer.zero_grad()
    assert not torch.equal(weight, before)

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(data, False), mode='predict')
    assert len(results) == 2
    for result in results:
        CHECKS[cfg.default_scope](result, cfg.model)


def images() -> list[torch.Tensor]:
    return [torch.randint(0, 256, (3, *IMAGE), dtype=torch.uint8) for _ in range(2)]


def detection_batch() -> dict:
    samples = []
    for _ in range(2):
        masks = np.zeros((2, *IMAGE), np.uint8)
        masks[0, 5:60, 5:40] = masks[1, 20:50, 30:90] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=IMAGE, ori_shape=IMAGE, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[5., 5., 40., 60.], [30., 20., 90., 50.]]),
            labels=torch.tensor([1, 9]), masks=BitmapMasks(masks, *IMAGE))
        samples.append(sample)
    return dict(inputs=images(), data_samples=samples)


def segmentation_batch() -> dict:
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=IMAGE, ori_shape=IMAGE))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 10, (1, *IMAGE)))
        samples.append(sample)
    return dict(inputs=images(), data_samples=samples)


def classification_batch() -> dict:
    from mmpretrain.structures import DataSample
    samples = [DataSample().set_gt_label(label) for label in (3, 999)]
    return dict(inputs=images(), data_samples=samples)


def check_detection(result, model: dict):
    instances = result.pred_instances
    assert len(instances) > 0 and instances.bboxes.shape == (len(instances), 4)
    assert 'roi_head' not in model or instances.masks.shape == (len(instances), *IMAGE)


def check_segmentation(result, model: dict):
    assert result.pred_sem_seg.data.shape == (1, *IMAGE)
    assert result.seg_logits.data.shape == (model.decode_head.num_classes, *IMAGE)


def check_classification(result, model: dict):
    assert result.pred_score.shape == (model.head.num_classes, )


BATCHES = dict(
    mmdet=detection_batch, mmseg=segmentation_batch, mmpretrain=classification_batch)
CHECKS = dict(mmdet=check_detection, mmseg=check_segmentation, mmpretrain=check_classification)


@of_a_recipe
def test_data(cfg, recipe, tmp_path):
    """The loaders of both kinds, on small data sets in the layouts of the real ones."""
    make_data(cfg.default_scope, tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(tmp_path)
    train = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    (image, ) = next(iter(Runner.build_dataloader(cfg.val_dataloader)))['inputs']
    assert cfg.train_dataloader.batch_size == recipe['batch']
    shapes = {tuple(x.shape[1:]) for x in train['inputs']}
    if cfg.default_scope == 'mmdet':
        sides = (800, ) if recipe['rates'] is STEPS_1X else range(480, 801, 32)
        assert all(h in sides and w == h * 3 // 2 for h, w in shapes)
        assert image.shape[1:] == (800, 1200)
        assert ('masks' in train['data_samples'][0].gt_instances) == ('roi_head' in cfg.model)
        metric = cfg.val_evaluator.metric
        assert metric == (['bbox', 'segm'] if 'roi_head' in cfg.model else 'bbox')
    elif cfg.default_scope == 'mmseg':
        assert cfg.model.data_preprocessor.size == (512, 512)
        assert all(max(shape) <= 512 for shape in shapes)
        assert image.shape[1:] == (512, 768)
        assert train['data_samples'][0].gt_sem_seg.data.unique().tolist() == [0, 255]
    else:
        assert shapes == {(224, 224)} and image.shape[1:] == (224, 224)
        erasing = cfg.train_dataloader.dataset.pipeline[4]
        assert (erasing.type, erasing.fill_color, erasing.fill_std) == (
            'RandomErasing', [104, 116, 124], [58, 57, 58])


def make_data(scope: str, root: Path):
    image = np.full((40, 60, 3), 99, np.uint8)
    for split in ('train', 'val'):
        if scope == 'mmdet':
            write(root / f'{split}2017/0.png', image)
            box = [10, 8, 40, 20]
            polygon = [10, 8, 50, 8, 50, 28, 10, 28]
            annotations = dict(
                images=[dict(id=0, file_name='0.png', width=60, height=40)],
                annotations=[dict(id=1, image_id=0, category_id=1, bbox=box, area=800, iscrowd=0,
                                  segmentation=[polygon])],
                categories=[dict(id=1, name='person')])
            (root / 'annotations').mkdir(exist_ok=True)
            (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(annotations))
        elif scope == 'mmseg':
            split = dict(train='training', val='validation')[split]
            write(root / f'images/{split}/0.jpg', image)
            labels = np.ones((40, 60), np.uint8)  # the first class; 0 is to be ignored
            labels[:, ::2] = 0
            write(root / f'annotations/{split}/0.png', labels)
        else:
            write(root / f'{split}/0.png', image)
            (root / 'meta').mkdir(exist_ok=True)
            (root / f'meta/{split}.txt').write_text('0.png 0\n')


def write(path: Path, image: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


# What the recipes say.


@of_a_recipe
def test_model(name, cfg, recipe, model):
    assert cfg.model.type == recipe['model']
    backbone = model.backbone
    assert type(backbone) is mmlit.LITv2
    channels, drop_path = ARCHS[arch(name)]
    assert backbone.embed_dims[-1] == channels
    dense = kind(name) != 'in1k'
    assert backbone.out_indices == ((0, 1, 2, 3) if dense else (3, ))
    detects = cfg.default_scope == 'mmdet'
    assert backbone.norm_indices == ((1, 2, 3) if detects else backbone.out_indices)
    window = 4 if '-ws4' in name else 2
    assert {b.attn.window_size for b in backbone.stages[2].blocks} == {window}
    assert {b.attn.window_size for b in backbone.stages[3].blocks} == {1}

    blocks = [b for stage in backbone.stages for b in stage.blocks]
    assert [b.drop_path.drop_prob for b in blocks] == pytest.approx(
        torch.linspace(0, drop_path, len(blocks)).tolist())
    assert {b.with_cp for b in blocks} == {detects and arch(name) == 'base'}
    assert {b.init_values for b in blocks} == {0 if dense else 1e-6}


@of_a_recipe
def test_heads(name, cfg):
    model = cfg.model
    if kind(name) == 'retinanet':
        neck = model.neck
        assert (neck.start_level, neck.add_extra_convs, neck.num_outs) == (1, 'on_input', 5)
    if kind(name) == 'fpn':
        head = model.decode_head
        assert (model.neck.out_channels, head.channels, head.dropout_ratio) == (256, 128, 0.1)
        assert head.norm_cfg.type == 'SyncBN'
    if cfg.default_scope == 'mmseg':
        assert model.test_cfg.mode == 'whole'
    if kind(name) == 'in1k':
        assert model.train_cfg.augments == [
            dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
        assert (model.head.loss.type, model.head.loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)


@of_a_recipe
def test_training(cfg, recipe):
    length, value = recipe['length']
    assert cfg.train_cfg[length] == value
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if recipe['amp'] else 'OptimWrapper')
    clip = cfg.optim_wrapper.get('clip_grad')
    assert clip == (dict(max_norm=5.0) if recipe['model'] == 'ImageClassifier' else None)
    assert cfg.auto_scale_lr.base_batch_size == 8 * recipe['batch']
    assert not cfg.auto_scale_lr.get('enable')


@of_a_recipe
def test_optimizer_groups(cfg, recipe, model):
    optimizer = optimizer_of(model, cfg).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults['eps'], optimizer.defaults['betas']) == (1e-8, (0.9, 0.999))
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    seen = set()
    for module_name, module in model.named_modules():
        is_norm = isinstance(module, (nn.LayerNorm, _BatchNorm))
        for name, p in module.named_parameters(recurse=False):
            kinds = {
                'norm': is_norm, 'bias': name == 'bias', 'gamma': name in ('gamma1', 'gamma2'),
                'offset': module_name.endswith('.conv_offset')}
            seen.update(k for k, is_one in kinds.items() if is_one)
            no_decay = any(kinds[k] for k in recipe['no_decay'])
            group = groups.pop(id(p))
            name = f'{module_name}.{name}'
            assert group['weight_decay'] == (0 if no_decay else recipe['weight_decay']), name
            slow = kinds['offset'] and 'offset' in recipe['no_decay']
            assert group['lr'] == recipe['lr'] * (0.01 if slow else 1), name
    assert groups == {} and seen >= {'norm', 'bias', 'offset', *recipe['no_decay']}


@of_a_recipe
def test_learning_rate(cfg, recipe):
    rates = learning_rates(cfg, recipe)
    for iteration, part in recipe['rates'].items():
        assert rates[iteration] == pytest.approx(part * recipe['lr'], rel=0.01, abs=1e-9), iteration


def learning_rates(cfg: Config, recipe: dict) -> list[float]:
    """The rate at each iteration, as mmengine's Runner steps the schedulers."""
    schedule = [dict(s) for s in cfg.param_scheduler]
    _, length = recipe['length']
    return _learning_rates(json.dumps(schedule), cfg.optim_wrapper.optimizer.lr, length,
                           recipe['epoch_length'])


@cache
def _learning_rates(schedule: str, lr: float, length: int, epoch_length: int | None):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    optimizer.step()
    schedulers = []
    for s in json.loads(schedule):
        if s.get('convert_to_iter_based'):
            s.update(epoch_length=epoch_length)
        schedulers.append(PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer)))
    rates = []
    for i in range(length * (epoch_length or 1)):
        rates.append(optimizer.param_groups[0]['lr'])
        ends_epoch = epoch_length and (i + 1) % epoch_length == 0
        for s in schedulers:
            if not s.by_epoch or ends_epoch:
                s.step()
    return rates


# Parameters and FLOPs; docs/dense_flops.md says what is counted, and why.


@pytest.mark.parametrize('name', PUBLISHED, scope='module')
def test_published_size(name, model):
    millions, giga = PUBLISHED[name]
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    shape = (512, 512) if kind(name) == 'fpn' else (1280, 800)
    macs = mmcv_count(model, shape) + unseen_layers(model.backbone, shape)
    if name != WITHOUT_ATTENTION:
        macs += attention_products(model.backbone, shape)
    assert abs(round(macs / 1e9, 1) - giga) <= 0.5


def mmcv_count(model: nn.Module, shape: tuple[int, int]) -> float:
    """mmcv's counter, which knows some types of layers, on tensors without data."""
    model = Dense(model).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        macs, _ = get_model_complexity_info(
            model, (3, *shape), print_per_layer_stat=False, as_strings=False)
    return macs


class Dense(nn.Module):
    """All layers of a model; in two-stage detectors for 1,000 boxes and 100 masks, as in mmdet."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor):
        if not hasattr(self.model, 'roi_head'):
            self.model(image)
            return
        self.model.rpn_head(self.model.extract_feat(image))
        self.model.roi_head.bbox_head(image.new_empty(1000, 256, 7, 7))
        self.model.roi_head.mask_head(image.new_empty(100, 256, 14, 14))


def attention_products(backbone: mmlit.LITv2, shape: tuple[int, int]) -> int:
    """Queries times keys and weights times values, which the official get_flops.py adds."""
    total = 0
    for attn, _, windows in attentions(backbone, shape):
        keys = attn.l_heads * windows + attn.h_heads * attn.window_size**2
        total += 2 * windows * attn.window_size**2 * keys * attn.head_dims
    return total


def unseen_layers(backbone: mmlit.LITv2, shape: tuple[int, int]) -> int:
    """What the official release has layers for that mmcv's counter knows, and mmlit has not.

    The convolutions of offsets, the pooling of Lo-Fi, and its queries at padded positions."""
    total = 0
    for i in range(3):
        positions = (shape[0] // (8 * 2**i)) * (shape[1] // (8 * 2**i))
        total += positions * 8 * (4 * backbone.embed_dims[i] + 1)
    for attn, tokens, windows in attentions(backbone, shape):
        padded = windows * attn.window_size**2
        lofi, dims = attn.l_heads * attn.head_dims, attn.l_q.in_features
        total += (padded - tokens) * lofi * (dims + lofi)
        total += padded * dims * (attn.window_size > 1)
    return total


def attentions(backbone: mmlit.LITv2, shape: tuple[int, int]):
    """Each attention with its numbers of tokens and windows."""
    for i in (2, 3):
        h, w = (side // (4 * 2**i) for side in shape)
        for block in backbone.stages[i].blocks:
            s = block.attn.window_size
            yield block.attn, h * w, -(-h // s) * -(-w // s)


# Pretrained weights.


@of_a_recipe
def test_pretrained_weights_are_the_published_ones(name, cfg):
    expected = dict(type='Pretrained', checkpoint=WEIGHTS.format(arch(name)[0]))
    assert cfg.model.backbone.get('init_cfg') == (expected if kind(name) != 'in1k' else None)


@pytest.mark.parametrize('name', [
    'retinanet_litv2-s-ws4_fpn_1x_coco', 'litv2-s_fpn_8xb2-80k_ade20k-512x512'])
def test_one_option_names_other_weights(name, tmp_path):
    """A classifier's weights, given as in --cfg-options, are those of the detector's backbone."""
    classifier = mmlit.litv2_small(num_classes=10)
    file = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict=classifier.state_dict()), file)
    cfg = load(name)
    cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': str(file)})
    backbone = MODELS.build(cfg.model).backbone
    backbone.init_weights()
    ours, theirs = backbone.state_dict(), classifier.backbone.state_dict()
    assert set(theirs) < set(ours)
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())
    assert {k.split('.')[0] for k in set(ours) - set(theirs)} == {
        f'norm{i}' for i in backbone.norm_indices if i != 3}
