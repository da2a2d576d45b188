"""The published classification configs: each loads, and says what its recipe says."""
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmcv import Config
from mmcv.runner import HOOKS
from openmixup.core.optimizers import build_optimizer
from openmixup.datasets.registry import PIPELINES
from openmixup.models import build_model
from openmixup.utils import build_from_cfg
from PIL import Image
from torch import nn
from torchvision.transforms import Compose

from ..conftest import DATA, GOLDEN_ARCH

ROOT = Path(__file__).parents[2] / 'configs/classification/imagenet/lit_v2'
CONFIGS = sorted(f.stem for f in ROOT.glob('*.py'))

ARCHS = {  # channels, drop path
    'small': (768, 0.2),
    'medium': (768, 0.3),
    'base': (1024, 0.5),
}
RECIPES = {  # by the last part of a config's name
    'ep300': dict(
        optimizer='AdamW', lr=1e-3, weight_decay=0.05, offset=0.01, batch=1024, epochs=300,
        warmup=20, lr_first=1e-9, lr_last=1e-5, mix=[0.8, 1.0], loss='LabelSmoothLoss',
        drop_path={}, layer_scale=1e-6, magnitude=9, erasing=[0.25], train_size=224,
        test=[('Resize', 256), ('CenterCrop', 224)], test_size=224),
    'ep100': dict(
        optimizer='LAMB', lr=0.008, weight_decay=0.02, offset=0.1, batch=2048, epochs=100,
        warmup=5, lr_first=8e-9, lr_last=0, mix=[0.1, 1.0], loss='CrossEntropyLoss',
        drop_path=dict(base=0.4), layer_scale=1e-6, magnitude=6, erasing=[], train_size=160,
        test=[('Resize', 236), ('CenterCrop', 224)], test_size=224),
    'ep30': dict(
        optimizer='AdamW', lr=4e-5, weight_decay=1e-8, offset=0.01, batch=1024, epochs=30,
        warmup=5, lr_first=4e-8, lr_last=4e-7, mix=[0.8, 1.0], loss='LabelSmoothLoss',
        drop_path={}, layer_scale=0, magnitude=9, erasing=[0.25], train_size=384,
        test=[('Resize', (384, 384))], test_size=384),
}


def load(name: str) -> Config:
    return Config.fromfile(ROOT / f'{name}.py')


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture
def cfg(name):
    return load(name)


@pytest.fixture
def recipe(name):
    return RECIPES[name.split('_')[-1]]


@pytest.fixture
def arch(name):
    return name.split('_')[2]


def test_every_experiment_has_a_config():
    archs = ('small', 'medium', 'base')
    assert {'lit_v2_base_sz384_8xb128_ft_ep30',
            *(f'lit_v2_{a}_8xb128_cos_fp16_ep300' for a in archs),
            *(f'lit_v2_{a}_rsb_a3_sz160_8xb256_ep100' for a in archs)} <= set(CONFIGS)


def test_model(cfg, recipe, arch):
    channels, drop_path = ARCHS[arch]
    model = cfg.model
    assert (model.type, model.backbone.type, model.head.type) == (
        'MixUpClassification', 'LITv2', 'ClsMixupHead')
    assert model.backbone.arch == arch
    assert model.backbone.drop_path_rate == recipe['drop_path'].get(arch, drop_path)
    assert model.backbone.init_values == recipe['layer_scale']
    assert model.backbone.alpha == 0.9
    assert model.backbone.window_size == [0, 0, 2, 1]
    assert model.backbone.attention_types == [None, None, 'HiLo', 'HiLo']
    assert model.mix_mode == ['mixup', 'cutmix']
    assert model.alpha == recipe['mix']
    assert (model.head.in_channels, model.head.num_classes) == (channels, 1000)
    assert model.head.loss.type == recipe['loss']
    if recipe['loss'] == 'LabelSmoothLoss':
        assert model.head.loss.label_smooth_val == 0.1
        assert not model.head.get('multi_label')
    else:
        assert model.head.loss.use_sigmoid and 'label_smooth_val' not in model.head.loss
        assert model.head.multi_label and not model.head.two_hot


def test_training(cfg, recipe):
    assert 8 * cfg.data.imgs_per_gpu == recipe['batch']
    assert cfg.runner == dict(type='EpochBasedRunner', max_epochs=recipe['epochs'])
    assert cfg.use_fp16 and cfg.fp16 == dict(type='mmcv', loss_scale='dynamic')
    assert cfg.optimizer_config.grad_clip.max_norm == 5.0
    assert not cfg.persistent_workers
    assert cfg.prefetch == cfg.data.train.prefetch
    assert cfg.evaluation.save_best == 'head0_top1'
    assert cfg.evaluation.eval_param.topk == (1, 5)
    assert (cfg.evaluation.interval, cfg.evaluation.initial) == (1, False)
    assert cfg.checkpoint_config == dict(interval=1, max_keep_ckpts=1)


def test_pipelines(cfg, recipe):
    train, test = cfg.data.train.pipeline, cfg.data.val.pipeline
    assert cfg.img_norm_cfg == dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert test[-1] == dict(type='Normalize', **cfg.img_norm_cfg)
    assert [(t.type, t.size) for t in test[:-2]] == recipe['test']
    assert {t.interpolation for t in (train[0], test[0])} == {3}
    (augment, ) = [t for t in train if t.type == 'RandAugment']
    assert (augment.magnitude_level, augment.num_policies) == (recipe['magnitude'], 2)
    assert (augment.magnitude_std, augment.hparams.pad_val) == (0.5, [104, 116, 124])
    erasing = [t for t in train if t.type == 'RandomErasing_numpy']
    assert [t.erase_prob for t in erasing] == recipe['erasing']

    image = Image.new('RGB', (90, 60), 'teal')
    assert run(train, image).size == (recipe['train_size'], ) * 2
    assert run(test, image).shape == (3, ) + (recipe['test_size'], ) * 2


def run(pipeline, image):
    return Compose([build_from_cfg(t, PIPELINES) for t in pipeline])(image)


def test_a_step(cfg):
    model = build_model(shrunk(cfg).model)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([3, 999])
    model.train_step(dict(img=images, gt_label=labels))['loss'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    scores = model.eval()(images, mode='test')
    assert {k: v.shape for k, v in scores.items()} == {'head0': (2, 1000)}
    assert cfg.evaluation.save_best.startswith('head0_')


def shrunk(cfg: Config, checkpoint: Path | None = None) -> Config:
    """The config with the model behind tests/data, and that checkpoint for its backbone."""
    cfg.model.backbone.update(
        arch=GOLDEN_ARCH,
        init_cfg=checkpoint and dict(type='Pretrained', checkpoint=str(checkpoint)))
    cfg.model.head.in_channels = GOLDEN_ARCH['embed_dims'][-1]
    return cfg


@cache
def parameters(arch: str) -> nn.Module:
    """The model whose parameters a config optimizes: an arch is built once for all its configs."""
    cfg = load(f'lit_v2_{arch}_8xb128_cos_fp16_ep300')
    cfg.model.init_cfg = None  # once is enough
    return build_model(cfg.model)


def test_optimizer(cfg, recipe):
    model = parameters(cfg.model.backbone.arch)
    optimizer = build_optimizer(model, cfg.optimizer)
    assert type(optimizer).__name__ == recipe['optimizer']
    if recipe['optimizer'] == 'AdamW':
        assert (optimizer.defaults['eps'], optimizer.defaults['betas']) == (1e-8, (0.9, 0.999))

    groups = {id(g['params'][0]): g for g in optimizer.param_groups}
    assert all(len(g['params']) == 1 for g in optimizer.param_groups)
    kinds = set()
    for name, p in model.named_parameters():
        group, offset = groups[id(p)], '.conv_offset.' in name
        # Norms, biases and layer scales are the vectors.
        no_decay = p.ndim == 1 or (offset and recipe['optimizer'] == 'AdamW')
        decay = 0 if no_decay else recipe['weight_decay']
        assert group['weight_decay'] == decay, name
        assert group['lr'] == recipe['lr'] * (recipe['offset'] if offset else 1), name
        kinds.add((offset, decay > 0))
    assert kinds >= {(False, True), (False, False), (True, False)}


def test_learning_rate(cfg, recipe):
    model = nn.ParameterDict({k: nn.Parameter(torch.zeros(1)) for k in ('weight', 'conv_offset')})
    optimizer = build_optimizer(model, cfg.optimizer)
    rates = {g['params'][0]: g for g in optimizer.param_groups}
    plain, offset = rates[model['weight']], rates[model['conv_offset']]

    options = cfg.lr_config.to_dict()
    hook = HOOKS.build(dict(options, type=f"{options.pop('policy')}LrUpdaterHook"))
    runner = SimpleNamespace(optimizer=optimizer, data_loader=range(4), iter=0,
                             max_iters=4 * recipe['epochs'])
    hook.before_run(runner)
    hook.before_train_epoch(runner)
    assert hook.warmup_iters == 4 * recipe['warmup']

    seen = []
    for i in range(runner.max_iters + 1):
        runner.iter = i
        hook.before_train_iter(runner)
        seen.append(plain['lr'])
        if i == 0:
            assert offset['lr'] == pytest.approx(plain['lr'] * recipe['offset'])
    assert offset['lr'] == pytest.approx(recipe['lr_last'])
    assert seen[0] == pytest.approx(recipe['lr_first'], rel=1e-2)
    assert seen[runner.max_iters // 2] == pytest.approx((recipe['lr'] + recipe['lr_last']) / 2)
    assert seen[-1] == pytest.approx(recipe['lr_last'])
    assert seen.index(max(seen)) == pytest.approx(hook.warmup_iters, abs=4)


def test_fine_tuning_starts_from_the_checkpoint_of_its_backbone():
    cfg = load('lit_v2_base_sz384_8xb128_ft_ep30')
    url = 'https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_b.pth'
    assert cfg.load_from == url
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=url)
    # The same, with a small checkpoint of the official layout that is at hand.
    model = build_model(shrunk(cfg, DATA / 'official_cls.pth').model)
    saved = torch.load(DATA / 'official_cls.pth', weights_only=True)['model']
    assert torch.equal(model.backbone.patch_embed.proj.weight, saved['patch_embed.proj.weight'])
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
