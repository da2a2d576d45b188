"""Which registries know LITv2: the one place that says so."""
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, Registry

from mmlit.layer_decay import LayerDecayOptimWrapperConstructor
from mmlit.models import LITv2

NAMES = ('LITv2', 'mmlit.LITv2')
MODELS = Registry('model', parent=ROOT_MODELS, scope='mmlit', locations=['mmlit.registration'])


def register_openmmlab() -> None:
    """``type='LITv2'`` through the root registry, in which mmdet's and mmseg's look too;
    ``type='mmlit.LITv2'`` through mmlit's own scope. Layer-wise learning rates, too, are found
    from the root."""
    ROOT_MODELS.register_module(module=LITv2)
    MODELS.register_module(module=LITv2)
    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=LayerDecayOptimWrapperConstructor)


def register_openmixup() -> None:
    """openmixup's registry of backbones has neither parents nor scopes: both names go in."""
    from openmixup.models.registry import BACKBONES

    from mmlit.openmixup.backbone import LITv2 as InitialisedLITv2
    for name in NAMES:
        BACKBONES.module_dict[name] = InitialisedLITv2
