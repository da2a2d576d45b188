"""The five most likely classes of an image, without PyTorch: by onnxruntime and Pillow alone.

python tools/demo_onnx.py MODEL.onnx IMAGE [--classes FILE]

MODEL.onnx is a classifier that tools/export_onnx.py wrote; how an image becomes its input stands in
the file.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np  # onnxruntime brings it
import onnxruntime
from PIL import Image, UnidentifiedImageError

PREPROCESSING = 'mmlit.preprocessing'


def parse_args():
    parser = argparse.ArgumentParser(description='Classify an image with an ONNX file')
    parser.add_argument('model', help='.onnx file of a classifier')
    parser.add_argument('image', help='any format that Pillow reads')
    parser.add_argument('--classes', type=Path, help='text file, one name a line, in their order')
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        session = onnxruntime.InferenceSession(args.model, providers=['CPUExecutionProvider'])
        settings = read_preprocessing(session)
        image = Image.open(args.image)
        names = args.classes.read_text(encoding='utf-8').splitlines() if args.classes else None
    except (OSError, UnidentifiedImageError, ValueError) as e:
        sys.exit(f'error: {e}')
    except Exception as e:  # onnxruntime's errors have no common class
        sys.exit(f'error: {args.model} is no model that onnxruntime can run: {e}')
    if [out.name for out in session.get_outputs()] != ['logits']:
        sys.exit(f'error: {args.model} is not a classifier: it gives '
                 f'{[out.name for out in session.get_outputs()]}')
    logits = session.run(None, {'images': prepare(image, settings)[None]})[0][0]
    if names is not None and len(names) != len(logits):
        sys.exit(f'error: {args.classes} has {len(names)} names, the model {len(logits)} classes')
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    for k in scores.argsort()[::-1][:5]:
        print(f'{scores[k]:7.2%}  {names[k] if names else f"class {k}"}')


def read_preprocessing(session: onnxruntime.InferenceSession) -> dict:
    """What tools/export_onnx.py wrote about the images."""
    metadata = session.get_modelmeta().custom_metadata_map
    if PREPROCESSING not in metadata:
        raise ValueError(f'the model does not say how to prepare images ({PREPROCESSING}): '
                         'was it written by tools/export_onnx.py?')
    return json.loads(metadata[PREPROCESSING])


def prepare(image: Image.Image, settings: dict) -> np.ndarray:
    """An image as the model's input: (3, H, W), float32, normalised."""
    image = image.convert('RGB')
    resample = Image.Resampling[settings['interpolation'].upper()]
    resize, crop = settings['resize'], settings['crop']
    if isinstance(resize, int):  # the shorter side; the other one rounded down, as torchvision does
        short = min(image.size)
        image = image.resize([side * resize // short for side in image.size], resample)
    elif resize is not None:
        image = image.resize(resize[::-1], resample)
    if crop is not None:
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    pixels = np.asarray(image, dtype=np.float32) / 255
    pixels = (pixels - np.float32(settings['mean'])) / np.float32(settings['std'])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


if __name__ == '__main__':
    main()
