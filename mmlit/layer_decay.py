"""Layer-wise learning rates in every toolkit that trains with mmengine."""
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmlit.errors import ArgumentError


class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Lower learning rates for earlier layers of backbones that have ``get_layer_depth``.

    mmdet's and mmseg's own constructors know ConvNeXt's and BEiT's names only, and refuse others;
    mmpretrain's asks the model, as this one does, but reads fewer settings. In
    ``paramwise_cfg``, ``layer_decay_rate`` stands beside all settings of mmengine's default
    constructor (``norm_decay_mult``, ``custom_keys``), whose learning rates it multiplies: by 1
    outside of backbones and in the last layer, by the rate in the one before, and so on.

    Args:
        optim_wrapper_cfg: As in mmengine.
        paramwise_cfg: As in mmengine, with ``layer_decay_rate``, in (0, 1].

    Raises:
        ArgumentError: If the rate is missing or out of range; when called, if the model has no such
            backbone.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ArgumentError(f'layer_decay_rate={rate!r}: {type(self).__name__} needs '
                                'paramwise_cfg=dict(layer_decay_rate=...), a number in (0, 1]')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '',
                   is_dcn_module: int | float | None = None) -> None:
        """Add a group for each parameter; called for a model, and by mmengine for its parts."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        rate, depths = self.paramwise_cfg['layer_decay_rate'], layer_depths(module)
        for group in params:
            depth, num_layers = depths.get(id(group['params'][0]), (0, 1))
            group['lr_scale'] = rate**(num_layers - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * group['lr_scale']


def layer_depths(model: nn.Module) -> dict[int, tuple[int, int]]:
    """Depth and number of layers of each parameter of each backbone, by the parameter's id.

    Raises:
        ArgumentError: If no backbone says how deep its parameters are.
    """
    backbones = [(path, module) for path, module in model.named_modules()
                 if path.split('.')[-1] == 'backbone' and hasattr(module, 'get_layer_depth')]
    if not backbones:
        raise ArgumentError(f'{type(model).__name__} has no backbone with get_layer_depth(), which '
                            'layer-wise learning rates ask: LITv2 has it')
    return {id(parameter): backbone.get_layer_depth(name, f'{path}.')
            for path, backbone in backbones
            for name, parameter in backbone.named_parameters(prefix=path)}
