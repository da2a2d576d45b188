"""The keys that openmixup knows, for :mod:`mmlit.config_keys`."""
import mmcv.runner
import openmixup.core.hooks.registry
import openmixup.datasets.registry
import openmixup.models.registry
from mmcv.runner import CheckpointHook
from openmixup.core.hooks import DistOptimizerHook, Fp16OptimizerHook
from openmixup.utils import Registry

from mmlit.config_keys import KnownKeys
from mmlit.config_types import arguments

from .hooks import ValidateHook

REGISTRIES = [mmcv.runner.HOOKS, mmcv.runner.OPTIMIZERS, *(
    registry
    for module in (openmixup.core.hooks.registry, openmixup.datasets.registry,
                   openmixup.models.registry)
    for registry in vars(module).values() if isinstance(registry, Registry))]
TOP_LEVEL = frozenset({
    'model', 'data', 'img_norm_cfg', 'optimizer', 'optimizer_config', 'lr_config',
    'momentum_config', 'runner', 'total_epochs', 'checkpoint_config', 'log_config', 'log_level',
    'evaluation', 'custom_hooks', 'custom_imports', 'use_fp16', 'fp16', 'addtional_scheduler',
    'update_interval', 'dist_params', 'workflow', 'load_from', 'resume_from', 'auto_resume',
    'work_dir', 'seed', 'deterministic', 'cudnn_benchmark', 'opencv_num_threads',
    'mp_start_method', 'find_unused_parameters', 'sampler', 'prefetch', 'persistent_workers',
    'gpu_ids', 'train_pipeline', 'test_pipeline', 'dataset_type', 'data_source_cfg'})
SECTIONS = {
    'data': frozenset({'imgs_per_gpu', 'workers_per_gpu', 'train', 'val', 'test', 'drop_last',
                       'sampling_replace', 'prefetch', 'extract'}),
    'runner': frozenset({'type', 'max_epochs', 'max_iters'}),
    'evaluation': frozenset({*arguments(ValidateHook)[0], 'imgs_per_gpu', 'workers_per_gpu',
                             'prefetch', 'img_norm_cfg', 'eval_param'}),
    'optimizer': frozenset({'paramwise_options', 'constructor'}),
    'optimizer_config': frozenset({'type', *arguments(DistOptimizerHook)[0],
                                   *arguments(Fp16OptimizerHook)[0]}),
    'checkpoint_config': frozenset({*arguments(CheckpointHook)[0], 'type', 'meta'}),
    'log_config': frozenset({'interval', 'hooks'}),
    'fp16': frozenset({'type', 'loss_scale'}),
    'img_norm_cfg': frozenset({'mean', 'std', 'to_rgb', 'inplace'}),
}


def _find(kind) -> list:
    return [registry.module_dict[kind] for registry in REGISTRIES if kind in registry.module_dict]


KNOWN = KnownKeys(TOP_LEVEL, SECTIONS, _find)
