"""Training and testing of mmengine configs: the options of OpenMMLab's tools."""
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmlit.config_files import config_errors
from mmlit.config_keys import check_top_level, merge_options
from mmlit.config_types import type_name
from mmlit.distributed import process_group
from mmlit.errors import ConfigError, MMLitError
from mmlit.resuming import read_training
from mmlit.work_dir import latest_checkpoint, lock_work_dir

from .checks import check_config
from .fsdp import ResumableFlexibleRunner, prepare_fsdp
from .keys import known_keys
from .resuming import keep_seed
from .runner import ResumableRunner
from .scopes import import_scope


def train(config: str,
          work_dir: str | None = None,
          resume: str | None = None,
          load_from: str | None = None,
          cfg_options: dict | None = None,
          seed: int | None = None,
          deterministic: bool = False,
          launcher: str = 'none',
          amp: bool = False,
          auto_scale_lr: bool = False) -> ResumableRunner | ResumableFlexibleRunner:
    """Train a config.

    Args:
        config: Path of an mmengine config.
        work_dir: Where logs and checkpoints go; by default the config's, else
            ``work_dirs/CONFIG_NAME``.
        resume: A checkpoint to continue from, or 'auto' for the last one in ``work_dir``, if any.
        load_from: A checkpoint to start from, with no state of a training.
        cfg_options: Overrides of the config.
        seed: Seed; the config's, else drawn and logged, when None.
        deterministic: Whether to choose deterministic algorithms.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        amp: Whether to train in mixed precision whatever the config says.
        auto_scale_lr: Whether to scale the learning rate with the batch size.

    Returns:
        The runner, after its last step.

    Raises:
        MMLitError: For what a user can mend.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    cfg.randomness = dict(dict(seed=None), **(cfg.get('randomness') or {}))
    if seed is not None:
        cfg.randomness.seed = seed
    if deterministic:
        cfg.randomness.deterministic = True
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    _without_cuda(cfg)
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {config}')
        cfg.auto_scale_lr.enable = True
    _check_length(cfg)
    if resume is None and load_from is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    if resume == 'auto':
        resume = latest_checkpoint(cfg.work_dir)
    cfg.resume = resume is not None
    cfg.load_from = str(resume or load_from or cfg.get('load_from') or '') or None
    _make_resumable(cfg)
    check_config(cfg)
    if cfg.resume:
        keep_seed(cfg, read_training(cfg.load_from))
    runner_class = _runner_class(cfg)
    with process_group(launcher), lock_work_dir(cfg.work_dir):
        runner = _build(cfg, runner_class)
        runner.train()
        return runner


def test(config: str,
         checkpoint: str,
         cfg_options: dict | None = None,
         launcher: str = 'none',
         work_dir: str | None = None,
         tta: bool = False) -> dict[str, float]:
    """Metrics of a checkpoint on the test data of a config.

    Args:
        config: Path of an mmengine config.
        checkpoint: Path or URL.
        cfg_options: Overrides of the config.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        work_dir: Where logs go.
        tta: Whether to merge the predictions for the views of the config's ``tta_pipeline``.

    Returns:
        The metrics, by the evaluators' names.

    Raises:
        MMLitError: For what a user can mend.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    cfg.load_from, cfg.resume = str(checkpoint), False
    check_config(cfg, splits=('test', ))
    if tta:
        _augment_tests(cfg)
    with process_group(launcher):
        return _build(cfg).test()


def load_config(path: str, options: dict | None = None, work_dir: str | None = None,
                launcher: str = 'none') -> Config:
    """Load a config with overrides.

    Raises:
        ConfigError: If it, or a base of it, cannot be loaded.
    """
    with config_errors(path):
        cfg = Config.fromfile(path)
    # Before a model is built, its toolkit's models must have been imported: the scope is only
    # looked into.
    cfg.default_scope = import_scope(cfg)
    known = known_keys(cfg.default_scope)
    check_top_level(cfg, known)
    merge_options(cfg, options or {}, known)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or Path('work_dirs', Path(path).stem))
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """The model of a loaded config, as initialised.

    Raises:
        ConfigError: If it does not build.
    """
    init_default_scope(cfg.default_scope)
    try:
        preprocessor = cfg.get('data_preprocessor')  # beside the model in mmpretrain
        return MODELS.build({'data_preprocessor': preprocessor, **cfg.model})
    except (AssertionError, ImportError, KeyError, TypeError, ValueError) as e:
        raise ConfigError(f'cannot build the model of {cfg.filename}: {e}') from e


def _augment_tests(cfg: Config) -> None:
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ConfigError(f'--tta needs tta_model and tta_pipeline in the config; it lacks '
                          f'{" and ".join(missing)}. mmdet has both in '
                          'mmdet::retinanet/retinanet_tta.py, for _base_')
    if type_name(cfg.tta_model.type) == 'DetTTAModel' and cfg.model.get('roi_head', {}).get(
            'mask_head'):
        raise ConfigError('--tta: DetTTAModel of tta_model merges boxes only, and '
                          'model.roi_head.mask_head gives masks')
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _runner_class(cfg: Config) -> type:
    """ResumableRunner, or ResumableFlexibleRunner for a config that asks for a strategy."""
    kind = (cfg.get('strategy') or {}).get('type')
    if (cfg.get('runner_type') == 'FlexibleRunner') != (kind is not None):
        raise ConfigError("runner_type='FlexibleRunner' and a strategy need each other")
    if kind == 'FSDPStrategy':
        prepare_fsdp(cfg)
    elif kind is not None:
        raise ConfigError(f'strategy.type={kind!r}: expected FSDPStrategy')
    return ResumableRunner if kind is None else ResumableFlexibleRunner


def _build(cfg: Config, runner_class: type = ResumableRunner):
    try:
        return runner_class.from_cfg(cfg)
    except MMLitError as e:
        raise ConfigError(f'cannot build the model: {e}') from e


def _check_length(cfg: Config) -> None:
    """Refuse a training of no steps by its config, before anything is written."""
    for key in ('max_epochs', 'max_iters'):
        value = (cfg.get('train_cfg') or {}).get(key)
        if value is not None and (not isinstance(value, int) or value <= 0):
            raise ConfigError(f'train_cfg.{key}={value!r}: a training takes at least one step, in '
                              'whole numbers')


def _without_cuda(cfg: Config) -> None:
    if torch.cuda.is_available() or type_name(
            cfg.optim_wrapper.get('type')) != 'AmpOptimWrapper':
        return
    cfg.optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    print_log('mixed precision: mmengine has it on CUDA only; training in float32',
              logger='current')


def _make_resumable(cfg: Config) -> None:
    """What a resumed run needs to equal an uninterrupted one."""
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='SeedHook'),
                        dict(type='CheckBatchHook'), dict(type='ShareBuffersHook'),
                        dict(type='FiniteHook')]
    loader = cfg.train_dataloader
    # Workers that outlive the epoch would keep the state of their random numbers.
    loader.persistent_workers = False
    loader.setdefault('worker_init_fn', dict(type='seed_worker'))
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint')
    if checkpoint and checkpoint.get('max_keep_ckpts') == 1:
        # mmengine removes the old one before it writes the new: with one, a kill loses both.
        checkpoint.max_keep_ckpts = 2
