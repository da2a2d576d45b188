"""Images as the input of an exported model, by NumPy and Pillow alone.

The steps stand in the file's metadata; mmlit/deployment/preprocessing.py writes and explains them.
"""
import json
import math
import warnings

import numpy as np
from PIL import Image, ImageOps

PREPROCESSING = 'mmlit.preprocessing'
VERSION = 2
ORIENTATION = 0x0112  # of EXIF
SIXTEEN_BITS = ('I;16', 'I;16B', 'I;16L', 'I')  # Pillow before 11 gives a PNG's as I
CV2_ROUNDS_TO = 2048  # the weights of its resizing of bytes are multiples of 1 / 2048


def read_preprocessing(metadata: dict[str, str]) -> dict:
    """What tools/export_onnx.py wrote about the images.

    Args:
        metadata: Of the file, by key.

    Raises:
        ValueError: If it did not, or not in a way that is known here.
    """
    if PREPROCESSING not in metadata:
        raise ValueError(f'the model does not say how to prepare images ({PREPROCESSING}): '
                         'was it written by tools/export_onnx.py?')
    try:
        settings = json.loads(metadata[PREPROCESSING])
        version = settings.get('version', 1)
    except (ValueError, AttributeError) as e:
        raise ValueError(f'the model says in no known way how to prepare images '
                         f'({PREPROCESSING}): {e}') from None
    if version != VERSION:
        raise ValueError(f'the model says how to prepare images in version {version} of '
                         f'{PREPROCESSING}, and this is version {VERSION}: export it again')
    for step in settings['steps']:
        for name in step:
            if name not in STEPS and name != 'load':
                raise ValueError(f'the model prepares images by the unknown step {name!r}')
    return settings


def open_image(path) -> Image.Image:
    """Open an image file and decode it whole: the first picture of several.

    Raises:
        ValueError: If it cannot be read, or is larger than Pillow thinks safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except Exception as e:  # those of Pillow's many decoders have no common class
        raise ValueError(f'cannot read the image {path}: {e}') from None
    return image


def remarks(image: Image.Image, settings: dict) -> list[str]:
    """What the user may not expect of an image, in sentences."""
    load, said = settings['steps'][0]['load'], []
    if getattr(image, 'n_frames', 1) > 1:
        said.append(f'it has {image.n_frames} pictures, of which the first is taken')
    if image.getexif().get(ORIENTATION, 1) != 1 and not load['upright']:
        said.append('it is marked as turned (EXIF), which is ignored, as in the training')
    if image.mode in SIXTEEN_BITS and load['reader'] != 'cv2':
        said.append('it has 16 bits, of which all above 255 is white, as in the training')
    return said


def prepare(image: Image.Image, settings: dict) -> np.ndarray:
    """An image as the model's input: (C, H, W), float32.

    Args:
        image: As opened; nothing has been done to it.
        settings: What :func:`read_preprocessing` returns.

    Raises:
        ValueError: If the image is so narrow that it would lose a side or become huge, or has
            other channels than the model was trained with.
    """
    (_, load), = settings['steps'][0].items()
    pixels = load_pixels(image, **load)
    for step in settings['steps'][1:]:
        for name, how in step.items():
            pixels = STEPS[name](pixels, **how) if isinstance(how, dict) else STEPS[name](pixels,
                                                                                          how)
    smallest = settings.get('min_size', 1)
    if min(pixels.shape[:2]) < smallest:
        raise ValueError(f'the image becomes {pixels.shape[1]}x{pixels.shape[0]} pixels, and the '
                         f'model needs {smallest}x{smallest}')
    return np.ascontiguousarray(as_channels(pixels).transpose(2, 0, 1), dtype=np.float32)


def load_pixels(image: Image.Image, reader: str, color: str, upright: bool) -> np.ndarray:
    """Pixels (H, W, C) or (H, W) as the training's reader of images would have them."""
    is_jpeg_in_colour = image.format == 'JPEG' and image.mode in ('RGB', 'YCbCr')
    if upright:
        image = ImageOps.exif_transpose(image)
    deep = image.mode in SIXTEEN_BITS
    if color == 'unchanged':
        if image.mode == 'P':
            image = image.convert('RGBA' if 'transparency' in image.info else 'RGB')
        pixels = np.array(image.convert('L') if image.mode == '1' else image)
        if deep:
            pixels = pixels.astype(np.uint16)
        if pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels[..., :3] = pixels[..., 2::-1]
        return pixels
    if reader == 'cv2' and deep:  # it keeps the upper half of 16 bits, Pillow all up to 255
        image = Image.fromarray((np.array(image).astype(np.uint16) >> 8).astype(np.uint8))
    if reader == 'mmcv-pillow' and image.mode == 'LA':
        image = on_mmcv_grey(image)
    rgb = image.convert('RGB')
    if color == 'gray':
        # OpenCV reads the brightness that a JPEG holds; so does this, up to rounding.
        return np.asarray(rgb.convert('YCbCr').getchannel(0) if is_jpeg_in_colour
                          else rgb.convert('L'))
    pixels = np.asarray(rgb)
    return pixels[..., ::-1] if color == 'bgr' else pixels


def on_mmcv_grey(image: Image.Image) -> Image.Image:
    """mmcv's background of grey images with transparency."""
    with_alpha = image.convert('RGBA')
    out = Image.new('RGB', image.size, (124, 117, 104))
    out.paste(with_alpha, mask=with_alpha.getchannel(3))
    return out


def resize(pixels: np.ndarray, *, backend: str, interpolation: str, **target) -> np.ndarray:
    height, width = resized_size(*pixels.shape[:2], **target)
    if min(height, width) < 1:
        raise ValueError(f'an image of {pixels.shape[1]}x{pixels.shape[0]} pixels is too narrow: '
                         f'it would become {width}x{height}')
    if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f'an image of {pixels.shape[1]}x{pixels.shape[0]} pixels is too narrow: '
                         f'it would become {width}x{height}, more than '
                         f'{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels')
    if backend == 'pillow':
        grey = pixels.ndim == 3 and pixels.shape[2] == 1  # for which Pillow wants no axis
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
        return np.asarray(image)[..., None] if grey else np.asarray(image)
    return cv2_resize(pixels, height, width, interpolation)


def resized_size(height: int, width: int, *, size=None, edge=None, side=None, longest=None,
                 within=None, factor=None) -> tuple[int, int]:
    """Height and width after resizing, rounded as the toolkits do."""
    if size is not None:
        return tuple(size)
    if factor is not None:
        return int(height * factor[0] + 0.5), int(width * factor[1] + 0.5)
    if within is not None:
        scale = min(max(within) / max(height, width), min(within) / min(height, width))
        return int(height * scale + 0.5), int(width * scale + 0.5)
    if edge == 'width' or (edge == 'short' and width < height) or (edge == 'long'
                                                                  and width > height):
        height, width = int(side * height / width), side
    else:
        height, width = side, int(side * width / height)
    if longest is not None and max(height, width) > longest:
        short = int(longest * min(height, width) / max(height, width))
        return (longest, short) if height > width else (short, longest)
    return height, width


def cv2_resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize as OpenCV does: no smoothing where an image shrinks. Bytes may differ by one."""
    rows = taps(pixels.shape[0], height, interpolation)
    columns = taps(pixels.shape[1], width, interpolation)
    if interpolation == 'nearest':
        return pixels[rows[0][:, 0]][:, columns[0][:, 0]]
    kind, tail = pixels.dtype, (1, ) * (pixels.ndim - 2)
    # Columns first, by one tap after the other: an image of 64-bit numbers is large.
    found = pixels
    for axis, (index, weight) in ((1, columns), (0, rows)):
        if kind == np.uint8:
            weight = np.rint(weight * CV2_ROUNDS_TO) / CV2_ROUNDS_TO
        shape = (-1, *(1, ) * (1 - axis), *tail)
        found = sum(np.take(found, index[:, k], axis) * weight[:, k].reshape(shape).astype(
            np.float32) for k in range(index.shape[1]))
    if kind.kind == 'f':
        return found.astype(kind)
    return np.floor(found + 0.5).clip(0, np.iinfo(kind).max).astype(kind)


def taps(length: int, out: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Which positions of a line each of the new line's reads (out, n), and their weights."""
    if interpolation == 'nearest':
        at = np.floor(np.arange(out) * (length / out)).astype(int).clip(0, length - 1)
        return at[:, None], np.ones((out, 1))
    centre = (np.arange(out) + 0.5) * (length / out) - 0.5
    first = np.floor(centre).astype(int)
    f = centre - first
    if interpolation == 'bilinear':
        index, weight = first[:, None] + [0, 1], np.stack([1 - f, f], 1)
    else:  # bicubic, with OpenCV's a
        a = -0.75
        near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (f, 1 - f)]
        far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + f, 2 - f)]
        index = first[:, None] + [-1, 0, 1, 2]
        weight = np.stack([far[0], near[0], near[1], far[1]], 1)
    return index.clip(0, length - 1), weight


def crop(pixels: np.ndarray, size: list[int], fill: bool) -> np.ndarray:
    if fill:  # of an odd border, the larger half is at the right and bottom
        border = [max(side - have, 0) for side, have in zip(size, pixels.shape[:2], strict=True)]
        pixels = padded(pixels, [(b // 2, (b + 1) // 2) for b in border], 0)
    starts = [max(0, round((have - side) / 2))
              for side, have in zip(size, pixels.shape[:2], strict=True)]
    return pixels[starts[0]:starts[0] + size[0], starts[1]:starts[1] + size[1]]


def pad(pixels: np.ndarray, *, value, size=None, divisor=None, square=False) -> np.ndarray:
    target = size or ([max(pixels.shape[:2])] * 2 if square else pixels.shape[:2])
    if divisor is not None:
        target = [math.ceil(side / divisor) * divisor for side in target]
    border = [(0, max(side - have, 0)) for side, have in zip(target, pixels.shape[:2],
                                                             strict=True)]
    return padded(pixels, border, value)


def padded(pixels: np.ndarray, border: list[tuple[int, int]], value) -> np.ndarray:
    (top, bottom), (left, right) = border
    shape = (top + len(pixels) + bottom, left + pixels.shape[1] + right, *pixels.shape[2:])
    out = np.empty(shape, pixels.dtype)
    out[...] = value
    out[top:top + len(pixels), left:left + pixels.shape[1]] = pixels
    return out


def gray(pixels: np.ndarray, channels: int) -> np.ndarray:
    brightness = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert('L'))
    return np.stack([brightness] * channels, axis=2)


def flip(pixels: np.ndarray, on: bool) -> np.ndarray:
    return pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels


def normalize(pixels: np.ndarray, mean: list, std: list) -> np.ndarray:
    pixels = as_channels(pixels)
    if len(mean) not in (1, pixels.shape[2]):
        raise ValueError(f'the image has {pixels.shape[2]} channels, and the model was trained '
                         f'with {len(mean)}')
    return (pixels - np.float32(mean)) / np.float32(std)


def as_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else pixels[..., None]


STEPS = {
    'resize': resize,
    'crop': crop,
    'pad': pad,
    'gray': gray,
    'float': lambda pixels, on: pixels.astype(np.float32),
    'flip': flip,
    'divide': lambda pixels, by: pixels.astype(np.float32) / np.float32(by),
    'normalize': normalize,
}
