"""Training and testing of openmixup configs, on one GPU, several, or none."""
import contextlib
import io
import time
from collections import Counter
from pathlib import Path

import mmcv
import openmixup.datasets
import torch
from mmcv.runner import DistSamplerSeedHook, get_dist_info
from mmengine.logging import MMLogger
from openmixup.apis import set_random_seed
from openmixup.core.hooks import Fp16OptimizerHook, build_addtional_scheduler, build_hook
from openmixup.core.optimizers import build_optimizer
from openmixup.models import build_model as build_openmixup_model
from openmixup.utils import collect_env, dist_forward_collect, setup_multi_processes
from torch.nn.parallel import DistributedDataParallel

from mmlit import __version__
from mmlit.checkpoints import load_checkpoint
from mmlit.errors import ConfigError, MMLitError
from mmlit.work_dir import latest_checkpoint

from .compat import process_group, without_idle_warnings, without_prefetch
from .data import build_dataset, build_train_loader
from .hooks import HostMemoryHook, OptimizerHook, SeedEpochHook, ValidateHook
from .runner import ResumableRunner, load_training


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
    with without_idle_warnings(), process_group(launcher):
        setup_multi_processes(cfg)
        seed = _share_seed(seed)
        set_random_seed(seed)
        # Everything that can be wrong is built before the first file is written.
        train_set = build_dataset(cfg.data.train, 'train')
        val_set = build_dataset(cfg.data.val, 'val') if cfg.get('evaluation') else None
        model = build_model(cfg)
        _check_labels(train_set, cfg)
        loader = build_train_loader(cfg, train_set, seed)
        work_dir = Path(work_dir or cfg.get('work_dir') or Path('work_dirs', Path(config).stem))
        resume = resume or cfg.get('resume_from')
        if resume == 'auto' or (resume is None and cfg.get('auto_resume')):
            resume = latest_checkpoint(work_dir)
        load_from = load_from or cfg.get('load_from')
        state = None
        if resume:
            state = load_training(model, resume)
        elif load_from:
            load_checkpoint(model, load_from)

        logger, timestamp = _start_logging(work_dir, cfg, seed, deterministic)
        _set_backends(cfg, deterministic)
        device = _device()
        amp_dtype = _amp_dtype(cfg, device, logger)
        model = TrainedModel(model.to(device), amp_dtype if device.type == 'cpu' else None,
                             cfg.get('find_unused_parameters', False))
        runner = ResumableRunner(
            model=model,
            optimizer=_build_optimizer(model.module, cfg, logger),
            work_dir=str(work_dir),
            logger=logger,
            meta=dict(seed=seed, exp_name=Path(config).name, config=cfg.pretty_text,
                      mmlit_version=__version__),
            max_epochs=_max_epochs(cfg))
        runner.timestamp = timestamp
        _register_hooks(runner, cfg, seed, val_set, amp_dtype)
        if state:
            runner.restore(state, len(loader))
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
        dataset = build_dataset(cfg.data.get('test', cfg.data.val), 'val')
        model = build_model(cfg)
        load_checkpoint(model, checkpoint, strict=True)
        device = _device()
        model = TrainedModel(model.to(device).eval())
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
        results = {}
        for name, value in scores.items():
            results.update(dataset.evaluate(
                torch.from_numpy(value), keyword=name,
                **evaluation.get('eval_param', dict(topk=(1, 5)))))
        return results


def load_config(path: str, options: dict | None = None) -> mmcv.Config:
    """Load an openmixup config with overrides, and check what the trainer reads first.

    Raises:
        ConfigError: If it does not parse or lacks a key.
    """
    try:
        cfg = mmcv.Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except (OSError, SyntaxError, ImportError, KeyError, TypeError, ValueError) as e:
        raise ConfigError(f'cannot load the config {path}: {e}') from e
    for key in ('model', 'data', 'img_norm_cfg'):
        if key not in cfg:
            raise ConfigError(f'the config {path} has no {key!r}')
    return cfg


def build_model(cfg) -> torch.nn.Module:
    """Build the model of a config; wrong arguments come back as a ConfigError."""
    try:
        return build_openmixup_model(cfg.model)
    except MMLitError as e:
        raise ConfigError(f'cannot build the model: {e}') from e
    except (TypeError, KeyError, AssertionError) as e:
        raise ConfigError(f'cannot build the model of {cfg.filename}: {e}') from e


class TrainedModel(DistributedDataParallel):
    """A model of openmixup under data parallelism, with mmcv's ``train_step``.

    mmcv 1.7.2's own wrapper reads attributes that torch >= 2.1 no longer has.

    Args:
        model: The model, on its device.
        cpu_amp_dtype: Runs training steps under CPU autocast of this dtype. (On CUDA openmixup's
            models switch autocast by themselves.)
        find_unused_parameters: As in DistributedDataParallel.
    """

    def __init__(self, model, cpu_amp_dtype: torch.dtype | None = None,
                 find_unused_parameters: bool = False):
        device = next(model.parameters()).device
        super().__init__(
            model,
            device_ids=[device] if device.type == 'cuda' else None,
            broadcast_buffers=False,  # as openmixup: validation shares batch norm's statistics
            find_unused_parameters=find_unused_parameters)
        self.cpu_amp_dtype = cpu_amp_dtype

    def train_step(self, data: dict, optimizer, **kwargs) -> dict:
        """Losses of one batch, as mmcv's runner wants them."""
        with torch.autocast('cpu', self.cpu_amp_dtype, enabled=self.cpu_amp_dtype is not None):
            losses = self(**data)
        loss, log_vars = self.module._parse_losses(losses)
        return dict(loss=loss, log_vars=log_vars, num_samples=len(data['gt_label']))


def _register_hooks(runner, cfg, seed: int, val_set, amp_dtype: torch.dtype | None) -> None:
    runner.register_hook(SeedEpochHook(seed), priority='VERY_HIGH')
    for hook in cfg.get('custom_hooks', []):
        priority = hook.get('priority', 'NORMAL')
        hook = build_hook({k: v for k, v in hook.items() if k != 'priority'},
                          dict(dist_mode=True))
        runner.register_hook(hook, priority=priority)
    if val_set is not None:
        # Before the checkpoint of the epoch, which then holds the best score so far: after a
        # resume, the best checkpoint is the one of the whole run.
        settings = dict(
            dist_mode=True, initial=True, interval=1, eval_param=dict(topk=(1, 5)),
            imgs_per_gpu=cfg.data.imgs_per_gpu, workers_per_gpu=cfg.data.workers_per_gpu,
            img_norm_cfg=cfg.img_norm_cfg)
        settings.update(cfg.evaluation)
        runner.register_hook(ValidateHook(val_set, **settings), priority='NORMAL')

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


def _build_optimizer(model, cfg, logger) -> torch.optim.Optimizer:
    # openmixup prints a line for every option of every parameter; the log gets a summary.
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = build_optimizer(model, cfg.optimizer)
    groups = Counter()
    for group in optimizer.param_groups:
        key = (group['lr'], group.get('weight_decay'))
        groups[key] += sum(p.numel() for p in group['params'])
    logger.info('optimizer %s: %s', cfg.optimizer.type, ', '.join(
        f'{n:,} weights with lr {lr:g} and weight decay {wd:g}'
        for (lr, wd), n in groups.items()))
    return optimizer


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


def _check_labels(dataset, cfg) -> None:
    classes = cfg.model.get('head', {}).get('num_classes')
    if classes and dataset.targets is not None and max(dataset.targets) >= classes:
        raise ConfigError(f'the training set has the label {max(dataset.targets)}, but '
                          f'model.head.num_classes is {classes}: labels run from 0 to '
                          f'num_classes - 1')


def _set_backends(cfg, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = cfg.get('cudnn_benchmark', False) and not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device('cuda', torch.cuda.current_device())
    return torch.device('cpu')


def _amp_dtype(cfg, device: torch.device, logger) -> torch.dtype | None:
    """Mixed precision of a training: float16 on CUDA, bfloat16 where the CPU computes in it."""
    if not cfg.get('use_fp16', False):
        logger.info('precision: float32')
        return None
    if device.type == 'cuda':
        if cfg.get('fp16', {}).get('type', 'mmcv') != 'mmcv':
            raise ConfigError(f"fp16={dict(cfg.fp16)}: only type='mmcv' (torch.amp) is supported")
        logger.info('precision: float16 autocast with loss scaling')
        return torch.float16
    # Names that torch keeps to itself, and does not have in every version.
    native = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    if any(getattr(torch.cpu, name, bool)() for name in native):
        logger.info('precision: bfloat16 autocast (the CPU has no use for float16)')
        return torch.bfloat16
    logger.info('precision: float32 (this CPU has no bfloat16 instructions)')
    return None


def _max_epochs(cfg) -> int:
    runner = cfg.get('runner') or dict(type='EpochBasedRunner', max_epochs=cfg.get('total_epochs'))
    if runner['type'] != 'EpochBasedRunner' or not runner.get('max_epochs'):
        raise ConfigError(f'runner={dict(runner)}: expected type EpochBasedRunner and max_epochs')
    return runner['max_epochs']


def _share_seed(seed: int | None) -> int:
    """The given seed, or one that rank 0 draws for all."""
    drawn = torch.randint(2**31, (1, )) if seed is None else torch.tensor([seed])
    drawn = drawn.to(_device())
    torch.distributed.broadcast(drawn, src=0)
    return int(drawn)
