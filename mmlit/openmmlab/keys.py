"""The keys that mmengine and its toolkits know, for :mod:`mmlit.config_keys`."""
import mmengine.registry
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    Runner,
    TestLoop,
    ValLoop,
)
from torch.utils.data import DataLoader

from mmlit.config_keys import KnownKeys
from mmlit.config_types import arguments

from .scopes import find_class

REGISTRIES = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)]
# What the toolkits' tools and trainers read beside the arguments of a Runner.
TOP_LEVEL = frozenset({
    *arguments(Runner)[0], *arguments(FlexibleRunner)[0], 'runner_type', 'strategy', 'tta_model',
    'tta_pipeline', 'custom_imports', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn',
    'train_pipeline', 'test_pipeline', 'val_pipeline', 'dataset_type', 'data_root', 'vis_backends',
    'optimizer', 'optim', 'compile', 'backend_args'})


def known_keys(scope: str) -> KnownKeys:
    """What is known where a scope is the default."""
    loader = frozenset({*arguments(DataLoader)[0], 'num_batch_per_epoch'})
    loops = {f'{split}_cfg': arguments(loop)[0] for split, loop in [
        ('val', ValLoop), ('test', TestLoop)]}
    train = {'by_epoch', *arguments(EpochBasedTrainLoop)[0], *arguments(IterBasedTrainLoop)[0]}

    def find(kind) -> list:
        if kind is None:
            return []
        found = [find_class(registry, kind, scope) for registry in REGISTRIES]
        return list(dict.fromkeys(filter(None, found)))

    return KnownKeys(TOP_LEVEL, {
        **{f'{split}_dataloader': loader for split in ('train', 'val', 'test')},
        **{path: frozenset({*names, 'fp16', 'type'}) for path, names in loops.items()},
        'train_cfg': frozenset(train),
        'optim_wrapper': frozenset({*arguments(OptimWrapper)[0], 'optimizer', 'constructor',
                                    'paramwise_cfg', 'loss_scale', 'dtype', 'use_fsdp',
                                    'clip_grad'}),
        'auto_scale_lr': frozenset({'enable', 'base_batch_size'}),
        'randomness': frozenset({'seed', 'diff_rank_seed', 'deterministic'}),
        'env_cfg': frozenset({'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}),
        'env_cfg.mp_cfg': frozenset({'mp_start_method', 'opencv_num_threads'}),
    }, find)
