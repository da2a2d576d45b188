"""Models of openmixup that LITv2 cannot serve, refused before anything is built or read."""
import importlib.util

from mmlit.errors import ConfigError
from mmlit.registration import NAMES

# Models that put masks into the backbone, which only backbones made for that take.
MASKING = {'MAE', 'SimMIM', 'A2MIM', 'CAE', 'BEiT', 'MaskFeat'}
# Modes that ask the backbone for more than maps; openmixup's own LIT and Swin fail at them, too.
OTHER_BACKBONES = {
    'manifoldmix': 'mixes inside of the backbone, which only ResNet_Mix and its like do',
    'transmix': 'reads the attention of a class token, which only VisionTransformer has',
}
REQUIREMENTS = {
    'puzzlemix': ('gco', 'gco-wrapper'),
    'saliencymix': ('cv2.saliency', 'opencv-contrib-python'),
}


def check_model(model: dict) -> None:
    """Check a model's config.

    Raises:
        ConfigError: If LITv2 cannot do what it asks for, or a package is missing.
    """
    with_litv2 = (model.get('backbone') or {}).get('type') in NAMES
    if with_litv2 and model['type'] in MASKING:
        raise ConfigError(f'{model["type"]} puts masks into the backbone, which LITv2 does not '
                          'take: use a backbone that openmixup made for it, such as '
                          'MIMVisionTransformer')
    modes = model.get('mix_mode') or ()
    for mode in [modes] if isinstance(modes, str) else modes:
        if with_litv2 and mode in OTHER_BACKBONES:
            raise ConfigError(f'mix_mode {mode!r} {OTHER_BACKBONES[mode]}: LITv2 cannot be trained '
                              'with it')
        module, package = REQUIREMENTS.get(mode, (None, None))
        if module and not _importable(module):
            raise ConfigError(f'mix_mode {mode!r} needs {module}: pip install {package}')


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # a package above it is missing
        return False
