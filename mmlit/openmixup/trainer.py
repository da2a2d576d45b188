"""Training and testing of openmixup configs, on one GPU, several, or none."""
import contextlib
import io
import time
from collections import Counter
from pathlib import Path

import mmcv
import openmixup.datasets
import torch
from mmcv.cnn.utils import revert_sync_batchnorm
from mmcv.runner import DistSamplerSeedHook, Hook, get_dist_info, get_priority
from mmengine.logging import MMLogger
from openmixup.apis import set_random_seed
from openmixup.core.hooks import Fp16OptimizerHook, build_addtional_scheduler, build_hook
from openmixup.core.optimizers import build_optimizer
from openmixup.models import build_model as build_openmixup_model
from openmixup.utils import collect_env, dist_forward_collect, setup_multi_processes

from mmlit import __version__
from mmlit.checkpoints import load_checkpoint
from mmlit.config_files import config_errors
from mmlit.config_keys import check_top_level, merge_options
from mmlit.errors import ConfigError, MMLitError
from mmlit.resuming import kept_seed, read_training, say_kept
from mmlit.work_dir import latest_checkpoint, lock_work_dir

from .checks import check_model
from .compat import process_group, without_idle_warnings, without_prefetch
from .data import build_dataset, build_train_loader, labels_of
from .hooks import (
    FirstValidationHook,
    HostMemoryHook,
    OptimizerHook,
    SeedEpochHook,
    ValidateHook,
    existing_topk,
)
from .keys import KNOWN
from .runner import FiniteHook, ResumableRunner, StateHook, load_training
from .state import IN_DATASET
from .wrapping import wrap_model


def train(config: str,
          work_dir: str | None = None,
          resume: str | None = None,
          load_from: str | None = None,
          cfg_options: dict | None = None,
          seed: int | None = None,
          deterministic: bool = False,
          launcher: str = 'none') -> ResumableRunner:
    """Train a config.

    Args:
        config: Path of an openmixup config (mmcv 1.x format).
        work_dir: Where logs and checkpoints go; by default the config's, else
            ``work_dirs/CONFIG_NAME``.
        resume: A checkpoint to continue from, or 'auto' for the last one in ``work_dir``, if any.
        load_from: A checkpoint to start from, with no state of a training.
        cfg_options: Overrides of the config.
        seed: Seed; drawn, and logged, when None.
        deterministic: Whether to choose deterministic algorithms.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Returns:
        The runner, after its last epoch.

    Raises:
        MMLitError: For everything a user can mend: data, config, checkpoints.
    """
    cfg = load_config(config, cfg_options)
    without_prefetch(cfg)
    max_epochs = _max_epochs(cfg)
    work_dir = Path(work_dir or cfg.get('work_dir') or Path('work_dirs', Path(config).stem))
    with without_idle_warnings(), process_group(launcher), contextlib.ExitStack() as stack:
        setup_multi_processes(cfg)
        source = _resume_from(cfg, resume, work_dir)
        resumed = read_training(source) if source else None
        seed = _share_seed(kept_seed(resumed, seed) if resumed else seed)
        set_random_seed(seed)
        # Everything that can be wrong is built before the first file is written.
        train_set = build_dataset(cfg.data.train, 'train')
        val_set = _build_validation_set(cfg) if cfg.get('evaluation') else None
        model = build_model(cfg)
        _check_labels(train_set, cfg)
        loader = build_train_loader(cfg, train_set, seed)
        hooks = _build_custom_hooks(cfg, loader)
        load_from = load_from or cfg.get('load_from')
        if resumed:
            load_training(model, resumed, source, [hook for hook, _ in hooks])
        elif load_from:
            load_checkpoint(model, load_from)
        optimizer = _build_optimizer(model, cfg)
        device = _device()
        amp_dtype = _amp_dtype(cfg, device)
        wrapped = wrap_model(model.to(device), amp_dtype if device.type == 'cpu' else None,
                             cfg.get('find_unused_parameters', False))
        runner = ResumableRunner(
            model=wrapped,
            optimizer=optimizer,
            work_dir=None,
            logger=MMLogger.get_current_instance(),
            meta=dict(seed=seed, exp_name=Path(config).name, config=cfg.pretty_text,
                      mmlit_version=__version__),
            max_epochs=max_epochs)
        runner.iters_per_epoch = len(loader)
        kept = runner.restore(resumed, source) if resumed else []

        stack.enter_context(lock_work_dir(work_dir))
        runner.work_dir = str(work_dir)
        runner.logger, runner.timestamp = _start_logging(work_dir, cfg, seed, deterministic)
        _log_beginning(runner, cfg, amp_dtype, kept)
        _set_backends(cfg, deterministic)
        _register_hooks(runner, cfg, seed, hooks, val_set, amp_dtype)
        runner.run([loader], [('train', 1)])
        return runner


def test(config: str,
         checkpoint: str,
         cfg_options: dict | None = None,
         launcher: str = 'none') -> dict[str, float]:
    """Accuracy of a checkpoint on the validation data of a config.

    Args:
        config: Path of an openmixup config.
        checkpoint: Path or URL, of any layout that mmlit knows.
        cfg_options: Overrides of the config.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Returns:
        Accuracies in percent, by openmixup's names (``head0_top1``, ...).
    """
    cfg = load_config(config, cfg_options)
    without_prefetch(cfg)
    with without_idle_warnings(), process_group(launcher):
        dataset = _build_validation_set(cfg, 'test' if 'test' in cfg.data else 'val')
        model = build_model(cfg)
        load_checkpoint(model, checkpoint, strict=True)
        device = _device()
        model = wrap_model(model.to(device).eval())
        evaluation = cfg.get('evaluation') or {}
        loader = openmixup.datasets.build_dataloader(
            dataset,
            evaluation.get('imgs_per_gpu', cfg.data.imgs_per_gpu),
            evaluation.get('workers_per_gpu', cfg.data.workers_per_gpu),
            dist=True,
            shuffle=False)
        rank, _ = get_dist_info()
        scores = dist_forward_collect(lambda **x: model(mode='test', **x), loader, rank,
                                      len(dataset))
        options = evaluation.get('eval_param', dict(topk=(1, 5)))
        results = {}
        for name, value in scores.items():
            results.update(dataset.evaluate(torch.from_numpy(value), keyword=name,
                                            **existing_topk(options, value)))
        return results


def load_config(path: str, options: dict | None = None) -> mmcv.Config:
    """Load an openmixup config with overrides, and check what the trainer reads first.

    Raises:
        ConfigError: If it does not parse or lacks a key.
    """
    with config_errors(path):
        cfg = mmcv.Config.fromfile(path)
    check_top_level(cfg, KNOWN)
    merge_options(cfg, options or {}, KNOWN)
    for key in ('model', 'data', 'img_norm_cfg'):
        if key not in cfg:
            raise ConfigError(f'the config {path} has no {key!r}')
    return cfg


def build_model(cfg) -> torch.nn.Module:
    """Build the model of a config; wrong arguments come back as a ConfigError."""
    check_model(cfg.model)
    try:
        model = build_openmixup_model(cfg.model)
    except MMLitError as e:
        raise ConfigError(f'cannot build the model: {e}') from e
    except (TypeError, KeyError, AssertionError) as e:
        problem = str(e) or type(e).__name__
        raise ConfigError(f'cannot build the model of {cfg.filename}: {problem}') from e
    # Necks of openmixup have SyncBatchNorm by default, which the CPU does not.
    return model if torch.cuda.is_available() else revert_sync_batchnorm(model)


def _build_custom_hooks(cfg, loader) -> list[tuple[Hook, int]]:
    """The hooks of the config and their priorities."""
    hooks = []
    for options in cfg.get('custom_hooks') or []:
        options = dict(options)
        priority = get_priority(options.pop('priority', 'NORMAL'))
        arguments = dict(dist_mode=True)
        if options.get('type') in IN_DATASET:
            arguments['data_loaders'] = [loader]
        try:
            hook = build_hook(options, arguments)
        except (TypeError, KeyError, ValueError, AssertionError) as e:
            raise ConfigError(f'cannot build the hook {options} of custom_hooks: {e}') from e
        if hasattr(hook, '_swap_ema_parameters'):
            # Validation and checkpoints, which are NORMAL, take the averaged weights.
            priority = min(priority, get_priority('NORMAL'))
        hooks.append((hook, priority))
    return hooks


def _register_hooks(runner, cfg, seed: int, hooks: list, val_set,
                    amp_dtype: torch.dtype | None) -> None:
    runner.register_hook(SeedEpochHook(seed), priority='VERY_HIGH')
    runner.register_hook(FiniteHook(), priority='ABOVE_NORMAL')
    for hook, priority in hooks:
        runner.register_hook(hook, priority=priority)
    if val_set is not None:
        # Before the checkpoint of the epoch, which then holds the best score so far: after a
        # resume, the best checkpoint is the one of the whole run.
        settings = dict(
            dist_mode=True, initial=True, interval=1, eval_param=dict(topk=(1, 5)),
            imgs_per_gpu=cfg.data.imgs_per_gpu, workers_per_gpu=cfg.data.workers_per_gpu,
            img_norm_cfg=cfg.img_norm_cfg)
        settings.update(cfg.evaluation)
        validation = ValidateHook(val_set, **settings)
        runner.register_hook(validation, priority='NORMAL')

    optimizer_config = dict(cfg.get('optimizer_config') or {})
    if amp_dtype == torch.float16:
        scale = cfg.get('fp16', {}).get('loss_scale', 'dynamic')
        optimizer_hook = Fp16OptimizerHook(**optimizer_config, loss_scale=scale, distributed=True)
    else:
        optimizer_hook = OptimizerHook(**optimizer_config)
    checkpoint_config = cfg.get('checkpoint_config')
    runner.register_training_hooks(
        cfg.lr_config, optimizer_hook, checkpoint_config, cfg.get('log_config'),
        cfg.get('momentum_config'))
    runner.register_hook(HostMemoryHook(), priority='LOW')
    runner.register_hook(DistSamplerSeedHook())
    if cfg.get('addtional_scheduler'):
        names = dict(runner.model.module.named_parameters())
        runner.register_hook(build_addtional_scheduler(names, cfg.addtional_scheduler))
    runner.register_hook(StateHook([hook for hook, _ in hooks]), priority='LOWEST')
    if val_set is not None:
        runner.register_hook(FirstValidationHook(validation), priority='LOWEST')


def _build_optimizer(model, cfg) -> torch.optim.Optimizer:
    # openmixup prints a line for every option of every parameter; the log gets a summary.
    with contextlib.redirect_stdout(io.StringIO()):
        return build_optimizer(model, cfg.optimizer)


def _log_beginning(runner, cfg, amp_dtype: torch.dtype | None, kept: list[str]) -> None:
    groups = Counter()
    for group in runner.optimizer.param_groups:
        key = (group.get('initial_lr', group['lr']), group.get('weight_decay', 0))
        groups[key] += sum(p.numel() for p in group['params'])
    runner.logger.info('optimizer %s: %s', type(runner.optimizer).__name__, ', '.join(
        f'{n:,} weights with lr {lr:g} and weight decay {wd:g}'
        for (lr, wd), n in groups.items()))
    float32 = 'float32'
    if cfg.get('use_fp16', False):
        float32 += ' (this CPU has no bfloat16 instructions)'
    runner.logger.info('precision: %s', {
        None: float32, torch.float16: 'float16 autocast with loss scaling',
        torch.bfloat16: 'bfloat16 autocast (the CPU has no use for float16)'}[amp_dtype])
    say_kept(kept)
    if runner.epoch:
        runner.logger.info('resumed after epoch %d, iter %d', runner.epoch, runner.iter)
    if runner.epoch == runner.max_epochs:
        runner.logger.info('the training is finished; a larger runner.max_epochs would continue it')


def _start_logging(work_dir: Path, cfg, seed: int, deterministic: bool):
    rank, world_size = get_dist_info()
    work_dir.mkdir(parents=True, exist_ok=True)
    timestamp = time.strftime('%Y%m%d_%H%M%S')
    log_file = str(work_dir / f'{timestamp}.log') if rank == 0 else None
    logger = MMLogger.get_instance(f'mmlit_{timestamp}', logger_name='mmlit', log_file=log_file)
    if rank == 0:
        cfg.dump(str(work_dir / Path(cfg.filename).name))
    logger.info('Environment:\n%s', '\n'.join(f'{k}: {v}' for k, v in collect_env().items()))
    logger.info('Config:\n%s', cfg.pretty_text)
    logger.info('%d process(es) on %s, seed %d, deterministic: %s', world_size, _device(), seed,
                deterministic)
    return logger, timestamp


def _build_validation_set(cfg, split: str = 'val'):
    if split not in cfg.data:
        raise ConfigError(f'the config {cfg.filename} has no data.{split} to validate with: add '
                          'it, or set evaluation=None to train without validation')
    return build_dataset(cfg.data[split], split, cfg.data.get('train'))


def _check_labels(dataset, cfg) -> None:
    labels = labels_of(dataset)
    for name in ('head', 'head_one', 'head_mix'):
        classes = (cfg.model.get(name) or {}).get('num_classes')
        if classes and labels and max(labels) >= classes:
            raise ConfigError(f'the training set has the label {max(labels)}, but model.{name}.'
                              f'num_classes is {classes}: labels run from 0 to num_classes - 1')


def _set_backends(cfg, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = cfg.get('cudnn_benchmark', False) and not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device('cuda', torch.cuda.current_device())
    return torch.device('cpu')


def _amp_dtype(cfg, device: torch.device) -> torch.dtype | None:
    """Mixed precision of a training: float16 on CUDA, bfloat16 where the CPU computes in it."""
    if not cfg.get('use_fp16', False):
        return None
    if device.type == 'cuda':
        if cfg.get('fp16', {}).get('type', 'mmcv') != 'mmcv':
            raise ConfigError(f"fp16={dict(cfg.fp16)}: only type='mmcv' (torch.amp) is supported")
        return torch.float16
    # Names that torch keeps to itself, and does not have in every version.
    native = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    if any(getattr(torch.cpu, name, bool)() for name in native):
        return torch.bfloat16
    return None


def _max_epochs(cfg) -> int:
    runner = cfg.get('runner') or dict(type='EpochBasedRunner', max_epochs=cfg.get('total_epochs'))
    epochs = runner.get('max_epochs')
    if runner['type'] != 'EpochBasedRunner' or epochs is None:
        raise ConfigError(f'runner={dict(runner)}: expected type EpochBasedRunner and max_epochs')
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise ConfigError(f'runner.max_epochs={epochs!r}: a training takes at least one epoch, in '
                          'whole numbers')
    return epochs


def _resume_from(cfg, resume: str | None, work_dir: Path) -> str | None:
    resume = resume or cfg.get('resume_from')
    if resume == 'auto' or (resume is None and cfg.get('auto_resume')):
        resume = latest_checkpoint(work_dir)
    return str(resume) if resume else None


def _share_seed(seed: int | None) -> int:
    """The given seed, or one that rank 0 draws for all."""
    drawn = torch.randint(2**31, (1, )) if seed is None else torch.tensor([seed])
    drawn = drawn.to(_device())
    torch.distributed.broadcast(drawn, src=0)
    return int(drawn)
