"""How an image becomes a model's input, read from the config; it travels with exported models."""
from mmlit.errors import ConfigError

# Of the recipes: an image is resized to 256 at its shorter side, and its middle cut out.
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], resize=256, crop=224,
                interpolation='bicubic')
PILLOW_NAMES = {0: 'nearest', 2: 'bilinear', 3: 'bicubic'}


def preprocessing_of(config, generation: str) -> dict:
    """How a config prepares images to test.

    Args:
        config: A loaded config of openmixup, mmpretrain, mmdet or mmseg.
        generation: 'openmixup' or 'mmengine', as :func:`mmlit.command_line.trainer_for` says.

    Returns:
        ``mean`` and ``std`` of RGB channels in [0, 1]; ``resize``: the length of the shorter side,
        or [height, width], or None; ``crop``: the side of the square in the middle, or None;
        ``interpolation``: Pillow's name of a filter. Sizes are in pixels.

    Raises:
        ConfigError: If it does not say the mean and std of pixels.
    """
    return _openmixup(config) if generation == 'openmixup' else _mmengine(config)


def _openmixup(cfg) -> dict:
    steps = {step.type: step for step in cfg.data.val.pipeline}
    resize, crop = steps.get('Resize', {}), steps.get('CenterCrop', {})
    norm = steps.get('Normalize') or cfg.img_norm_cfg
    return dict(mean=list(norm['mean']), std=list(norm['std']), resize=_size(resize.get('size')),
                crop=crop.get('size'),
                interpolation=PILLOW_NAMES[resize.get('interpolation', 2)])


def _mmengine(cfg) -> dict:
    norm = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if not (norm.get('mean') and norm.get('std')):
        raise ConfigError(f'{cfg.filename}: data_preprocessor has no mean and std; an exported '
                          'model tells them to those who run it')
    steps = {step.type: step for step in cfg.get('test_pipeline', [])}
    # mmdet and mmseg keep an image's size, or choose one by its sides.
    resize, crop = steps.get('ResizeEdge', {}), steps.get('CenterCrop', {})
    return dict(mean=[m / 255 for m in norm.mean], std=[s / 255 for s in norm.std],
                resize=_size(resize.get('scale')), crop=crop.get('crop_size'),
                interpolation=resize.get('interpolation', 'bilinear'))


def _size(size):
    return list(size) if isinstance(size, (list, tuple)) else size
