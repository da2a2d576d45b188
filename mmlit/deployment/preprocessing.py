"""How an image becomes a model's input, read from the config; it travels with exported models.

A config's own words for that are many, so they are translated into a few steps which
tools/prepare_images.py runs with NumPy and Pillow alone, each in one way:

========= ========================================================================================
load      ``reader`` 'pillow', 'cv2' or 'mmcv-pillow' (whose way with odd files is followed),
          ``color`` 'rgb', 'bgr', 'gray' or 'unchanged', ``upright``: whether turned by EXIF
resize    to ``size`` [height, width]; or ``side`` of an ``edge`` ('short', 'long', 'width',
          'height'), the other in proportion, the longer at most ``longest``; or as large as fits
          ``within`` two sides; or by ``factor`` [height, width].
          ``backend`` 'pillow' or 'cv2', ``interpolation``
crop      the middle of ``size`` [height, width]; ``fill``: whether smaller images get a black
          border, or stay as they are
pad       at the right and bottom, to ``size``, to a multiple of ``divisor``, or ``square`` first;
          with ``value``
gray      ``channels``: 1, or 3 alike
float     pixels are float32 from here on
flip      of three channels, the order
divide    by a number
normalize ``mean`` and ``std`` of each channel
========= ========================================================================================
"""
from mmlit.config_types import type_name
from mmlit.errors import ConfigError
from mmlit.test_pipelines import dataset_of_tests

VERSION = 2  # of the steps' format; 1 had no steps


def described(steps: list[dict]) -> dict:
    """Steps as a file's metadata holds them."""
    return dict(version=VERSION, steps=steps)


def imagenet(side: int = 224) -> dict:
    """What the recipes do: the shorter side resized to 256 and the middle cut out, for 224 pixels;
    the whole image for others."""
    if side == 224:
        sizes = [{'resize': dict(edge='short', side=256, backend='pillow',
                                 interpolation='bicubic')},
                 {'crop': dict(size=[224, 224], fill=True)}]
    else:
        sizes = [{'resize': dict(size=[side, side], backend='pillow', interpolation='bicubic')}]
    return described([PILLOW_RGB, *sizes, {'divide': 255},
                      _normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


def preprocessing_of(config, generation: str) -> dict:
    """How a config prepares images to test.

    Args:
        config: A loaded config of openmixup, mmpretrain, mmdet or mmseg.
        generation: 'openmixup' or 'mmengine', as :func:`mmlit.command_line.trainer_for` says.

    Returns:
        ``version`` and ``steps``, in the order in which they are taken, each a dict of one name to
        its settings. Sizes are in pixels.

    Raises:
        ConfigError: If there is no pipeline for tests, a step of it or a setting of one cannot be
            followed, or pixels are not normalised.
    """
    return described(_openmixup(config) if generation == 'openmixup' else _mmengine(config))


def _openmixup(cfg) -> list[dict]:
    dataset = dataset_of_tests(cfg, 'openmixup')
    # Its other backends decode by OpenCV, and call the blue channel red.
    client = (dataset.get('data_source') or {}).get('file_client_args') or {}
    backend = client.get('backend', 'pillow')
    load = PILLOW_RGB if backend == 'pillow' else {
        'load': dict(reader='cv2', color='bgr', upright=True)}
    steps = [load, *_followed(dataset['pipeline'], TORCHVISION, cfg)]
    if dataset.get('prefetch'):  # there, the loader does it
        norm = cfg.img_norm_cfg
        steps += [{'divide': 255}, _normalize(norm['mean'], norm['std'])]
    return steps


def _mmengine(cfg) -> list[dict]:
    steps = _followed(dataset_of_tests(cfg)['pipeline'], MMENGINE, cfg)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    while 'data_preprocessor' in preprocessor:  # that of semi-supervised models
        preprocessor = preprocessor['data_preprocessor']
    last = _data_preprocessor(preprocessor, cfg)
    if not any('normalize' in step for step in steps + last):
        raise ConfigError(f'{cfg.filename}: data_preprocessor has no mean and std; an exported '
                          'model tells them to those who run it')
    return steps + last


def _followed(pipeline: list, known: dict, cfg) -> list[dict]:
    """The steps of a pipeline, translated."""
    steps = []
    for step in pipeline:
        settings = dict(step)
        kind = settings.pop('type')
        name = type_name(kind)
        if name.startswith('torchvision/'):  # so mmpretrain names them
            name, translate = name.removeprefix('torchvision/'), TORCHVISION
        else:
            translate = known
        if name not in translate:
            raise ConfigError(
                f'{cfg.filename}: its pipeline for tests has the step {kind!r}, which an exported '
                f'model cannot tell to those who run it. Known are {", ".join(sorted(translate))}')
        given = Settings(settings, f'{cfg.filename}: {name} of its pipeline for tests')
        steps += translate[name](given)
        given.check_all_read()
    return steps


class Settings:
    """Arguments of a step, which must all be read.

    Args:
        given: The arguments.
        where: Begins the error messages.
    """

    def __init__(self, given: dict, where: str):
        self.rest, self.where = dict(given), where

    def take(self, key: str, default=None):
        return self.rest.pop(key, default)

    def one_of(self, key: str, choices, default):
        """Take a setting that must be among the choices."""
        value = self.take(key, default)
        if value not in choices:
            raise self.error(f'{key}={value!r}')
        return value

    def error(self, what: str) -> ConfigError:
        return ConfigError(f'{self.where} has {what}, which an exported model cannot tell to those '
                           'who run it')

    def check_all_read(self) -> None:
        for key, value in self.rest.items():
            raise self.error(f'{key}={value!r}')


def _pair(size) -> list[int]:
    return [int(size)] * 2 if isinstance(size, int | float) else [int(side) for side in size]


def _normalize(mean, std) -> dict:
    return {'normalize': dict(mean=[float(m) for m in mean], std=[float(s) for s in std])}


PILLOW_RGB = {'load': dict(reader='pillow', color='rgb', upright=False)}


# Of torchvision, which openmixup uses. Images are Pillow's.

PILLOW_FILTERS = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic', 4: 'box', 5: 'hamming',
                  'nearest-exact': 'nearest'}


def _torchvision_resize(given: Settings) -> list[dict]:
    size, longest = given.take('size'), given.take('max_size')
    given.take('antialias')  # for Pillow's images it is always on
    value = given.take('interpolation', 'bilinear')
    value = getattr(value, 'value', value)  # of torchvision's enumeration
    value = PILLOW_FILTERS.get(value, value)
    if value not in PILLOW_FILTERS.values():
        raise given.error(f'interpolation={value!r}')
    how = dict(backend='pillow', interpolation=value)
    if isinstance(size, list | tuple) and len(size) == 1:
        (size, ) = size
    if not isinstance(size, int):
        return [{'resize': dict(size=_pair(size), **how)}]
    limit = {} if longest is None else dict(longest=longest)
    return [{'resize': dict(edge='short', side=size, **limit, **how)}]


def _torchvision_crop(given: Settings) -> list[dict]:
    size = given.take('size')
    if isinstance(size, list | tuple) and len(size) == 1:
        (size, ) = size
    return [{'crop': dict(size=_pair(size), fill=True)}]


def _torchvision_normalize(given: Settings) -> list[dict]:
    given.take('inplace')
    return [_normalize(given.take('mean'), given.take('std'))]


TORCHVISION = {
    'Resize': _torchvision_resize,
    'CenterCrop': _torchvision_crop,
    'Grayscale': lambda given: [{'gray': dict(channels=given.take('num_output_channels', 1))}],
    'ToTensor': lambda given: [{'divide': 255}],
    'Normalize': _torchvision_normalize,
}


# Of mmcv, mmpretrain, mmdet and mmseg. Images are arrays, BGR unless the loading says otherwise.

def _load(given: Settings) -> list[dict]:
    for key in ('file_client_args', 'backend_args', 'ignore_empty'):  # where the bytes come from
        given.take(key)
    color = given.take('color_type', 'color')
    base = color.removesuffix('_ignore_orientation')
    if base not in ('color', 'grayscale', 'unchanged'):
        raise given.error(f'color_type={color!r}')
    backend = given.one_of('imdecode_backend', ('cv2', 'pillow', None), 'cv2')
    load = dict(reader='mmcv-pillow' if backend == 'pillow' else 'cv2',
                color=dict(color='bgr', grayscale='gray', unchanged='unchanged')[base],
                upright=color in ('color', 'grayscale'))
    return [{'load': load}] + [{'float': True}] * bool(given.take('to_float32', False))


def _how_to_resize(given: Settings) -> dict:
    backend = given.one_of('backend', ('cv2', 'pillow', None), 'cv2')
    filters = (('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming')
               if backend == 'pillow' else ('nearest', 'bilinear', 'bicubic'))
    return dict(backend=backend or 'cv2',
                interpolation=given.one_of('interpolation', filters, 'bilinear'))


def _mmcv_resize(given: Settings) -> list[dict]:
    how = _how_to_resize(given)
    given.take('clip_object_border')
    scale, factor = given.take('scale'), given.take('scale_factor')
    keep_ratio = given.take('keep_ratio', False)
    if scale is None:
        factor = [factor] * 2 if isinstance(factor, int | float) else list(factor)
        if keep_ratio:
            raise given.error('scale_factor beside keep_ratio=True')
        return [{'resize': dict(factor=factor[::-1], **how)}]
    if isinstance(scale, int):
        scale = [scale] * 2
    if keep_ratio:
        return [{'resize': dict(within=[int(side) for side in scale], **how)}]
    return [{'resize': dict(size=_pair(scale)[::-1], **how)}]  # it is (width, height)


def _resize_edge(given: Settings) -> list[dict]:
    edge = given.one_of('edge', ('short', 'long', 'width', 'height'), 'short')
    return [{'resize': dict(edge=edge, side=given.take('scale'), **_how_to_resize(given))}]


def _mmcv_crop(given: Settings) -> list[dict]:
    width, height = _pair(given.take('crop_size'))
    given.take('clip_object_border')
    given.take('pad_cfg')  # means nothing without auto_pad
    given.one_of('auto_pad', (False, ), False)
    return [{'crop': dict(size=[height, width], fill=False)}]


def _pad(given: Settings) -> list[dict]:
    value = given.take('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    given.one_of('padding_mode', ('constant', ), 'constant')
    to = {}
    if given.take('pad_to_square', False):
        to['square'] = True
    size, divisor = given.take('size'), given.take('size_divisor')
    if size is not None:
        to['size'] = _pair(size)[::-1]
    if divisor is not None:
        to['divisor'] = divisor
    return [{'pad': dict(to, value=list(value) if isinstance(value, list | tuple) else value)}]


def _mmcv_normalize(given: Settings) -> list[dict]:
    flip = [{'flip': True}] if given.take('to_rgb', True) else []
    return [{'float': True}, *flip, _normalize(given.take('mean'), given.take('std'))]


def _never_flips(given: Settings) -> list[dict]:
    probability = given.take('prob')
    given.take('direction')
    if probability:
        raise given.error(f'prob={probability!r}')
    return []


def _nothing(given: Settings) -> list[dict]:
    given.rest.clear()  # about labels, or about what the image is wrapped in
    return []


MMENGINE = {
    'LoadImageFromFile': _load,
    'Resize': _mmcv_resize,
    'ResizeEdge': _resize_edge,
    'CenterCrop': _mmcv_crop,
    'Pad': _pad,
    'Normalize': _mmcv_normalize,
    'RandomFlip': _never_flips,
    'NumpyToPIL': lambda given: [{'flip': True}] * bool(given.take('to_rgb', False)),
    'PILToNumpy': lambda given: [{'flip': True}] * bool(given.take('to_bgr', False)),
    **dict.fromkeys(('LoadAnnotations', 'LoadPanopticAnnotations', 'LoadEmptyAnnotations',
                     'PackInputs', 'PackDetInputs', 'PackSegInputs', 'PackMultiTaskInputs',
                     'ImageToTensor', 'Collect'), _nothing),
}


def _data_preprocessor(settings: dict, cfg) -> list[dict]:
    """What a model of mmengine does with a tensor before its backbone, in tests."""
    name = type_name(settings.get('type', 'ClsDataPreprocessor'))  # as mmpretrain's default
    if name not in ('ClsDataPreprocessor', 'ImgDataPreprocessor', 'DetDataPreprocessor',
                    'SegDataPreProcessor'):
        raise ConfigError(f'{cfg.filename}: an exported model cannot tell what the '
                          f'data_preprocessor {name} does to those who run it')
    steps = [{'float': True}]
    if any(settings.get(key) for key in ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')):
        steps.append({'flip': True})
    if settings.get('mean') is not None and settings.get('std') is not None:
        steps.append(_normalize(settings['mean'], settings['std']))
    if name == 'SegDataPreProcessor':
        pad, value = settings.get('test_cfg') or {}, settings.get('pad_val', 0)
        if pad.get('size') is not None:
            steps.append({'pad': dict(size=_pair(pad['size']), value=value)})
        elif pad.get('size_divisor') is not None:
            steps.append({'pad': dict(divisor=pad['size_divisor'], value=value)})
    elif settings.get('pad_size_divisor', 1) > 1:
        steps.append({'pad': dict(divisor=settings['pad_size_divisor'],
                                  value=settings.get('pad_value', 0))})
    return steps
