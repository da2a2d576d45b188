"""The most likely classes of an image, without PyTorch: by onnxruntime and Pillow alone.

python tools/demo_onnx.py MODEL.onnx IMAGE [--classes FILE]

MODEL.onnx is a classifier that tools/export_onnx.py wrote; how an image becomes its input stands in
the file. Runs with tools/prepare_images.py beside it, and nothing else of mmlit.
"""
import argparse
import sys
from pathlib import Path

import numpy as np  # onnxruntime brings it
import onnxruntime
from prepare_images import open_image, prepare, read_preprocessing, remarks


def parse_args():
    parser = argparse.ArgumentParser(description='Classify an image with an ONNX file')
    parser.add_argument('model', help='.onnx file of a classifier')
    parser.add_argument('image', help='any format that Pillow reads')
    parser.add_argument('--classes', type=Path, help='text file, one name a line, in their order')
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        session, settings = open_classifier(args.model)
        names = read_names(args.classes) if args.classes else None
        image = open_image(args.image)
        for remark in remarks(image, settings):
            print(f'{args.image}: {remark}', file=sys.stderr)
        logits = run(session, args.model, prepare(image, settings))
        if names is not None and len(names) != len(logits):
            raise ValueError(f'{args.classes} has {len(names)} names, the model {len(logits)} '
                             'classes')
    except (OSError, ValueError) as e:
        sys.exit(f'error: {" ".join(str(e).split())}')
    except KeyboardInterrupt:
        sys.exit(130)
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    for k in scores.argsort()[::-1][:5]:
        print(f'{scores[k]:7.2%}  {names[k] if names else f"class {k}"}')


def open_classifier(path: str) -> tuple[onnxruntime.InferenceSession, dict]:
    """A file of tools/export_onnx.py, and how it wants its images.

    Raises:
        ValueError: If it is no such file, or no classifier.
    """
    if not Path(path).is_file():
        raise ValueError(f'{path} is not there' if not Path(path).exists() else
                         f'{path} is not a file')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong, it raises as well
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as e:  # onnxruntime's errors have no common class
        raise ValueError(f'{path} is no model that onnxruntime can run: {e}') from None
    outputs = [out.name for out in session.get_outputs()]
    try:
        settings = read_preprocessing(session.get_modelmeta().custom_metadata_map)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from None
    if outputs != ['logits'] or [x.name for x in session.get_inputs()] != ['images']:
        raise ValueError(f'{path} is not a classifier: it gives {outputs}')
    return session, settings


def run(session: onnxruntime.InferenceSession, path: str, pixels: np.ndarray) -> np.ndarray:
    """Logits (N,) of one prepared image (C, H, W)."""
    expected = session.get_inputs()[0].shape
    if len(expected) != 4 or any(isinstance(side, int) and side != have for side, have in
                                 zip(expected, (1, *pixels.shape), strict=True)):
        raise ValueError(f'{path} takes images {expected}, and this one is prepared as '
                         f'{[1, *pixels.shape]}')
    try:
        logits = session.run(['logits'], {'images': pixels[None]})[0][0]
    except Exception as e:
        raise ValueError(f'{path} cannot be run on an image of {pixels.shape[2]}x'
                         f'{pixels.shape[1]}: {e}') from None
    if not np.isfinite(logits).all():
        raise ValueError(f'{path} gives logits that are not finite')
    return logits.astype(np.float64)


def read_names(path: Path) -> list[str]:
    """One name a line; what an editor adds at the beginning and the end is no name."""
    try:
        lines = path.read_text(encoding='utf-8-sig').rstrip().split('\n')
    except UnicodeDecodeError as e:
        raise ValueError(f'{path} is not text in UTF-8: {e}') from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise ValueError(f'{path}, line {number} is empty: a name for each class is needed')
    return [line.strip() for line in lines]


if __name__ == '__main__':
    main()
