"""Scenes with several of scikit-learn's handwritten digits, for detection and segmentation.

python tools/dataset_converters/digit_scenes.py [--out data/digit_scenes] [--train 600] [--val 150]
    [--seed 0]

Each scene is 160 x 224 pixels: 2 to 7 digits, 24 to 72 pixels high, on a piece of a photograph that
scikit-image ships (nothing is downloaded). No validation digit occurs in training: the held-out
fifth is that of digits.py, so a classifier trained there has not seen them either. Validation has
photographs of its own, too. Writes

    OUT/{train,val}/NUMBER.jpg
    OUT/annotations/{train,val}.json     COCO instances: boxes, masks (compressed RLE), and
                                         "digit_index", the place in scikit-learn's set
    OUT/seg_maps/{train,val}/NUMBER.png  the same scenes for mmseg: 0 to 9 are the digits, 10 is
                                         the background

The background is neither a class nor ignored. Ignored (255, or mmseg's reduce_zero_label), it would
cost nothing to paint a digit over all of it; as an eleventh class it would lift the mean. So it has
the first value after the ten classes: a model learns it as any other (an eleventh output), and
mmseg's IoUMetric, which counts labels of its ten classes only, adds every background pixel that is
taken for a digit to the union of that digit.
"""
import argparse
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize
from sklearn.datasets import load_digits

if __package__:
    from .digits import split
else:  # run as a script
    from digits import split

HEIGHT, WIDTH = 160, 224
DIGITS = (2, 7)  # fewest and most in a scene
SIDES = (24, 72)  # pixels, of the digit's 8 x 8 square
BACKGROUND = 10
MAX_OVERLAP = 0.1  # share of a digit's ink that may lie on another, or under others
DIMMED = (0.3, 0.6)  # brightness of a photograph, in parts of its own
# Grey levels between ink and what it covers; a photograph dimmed to 0.6 leaves more than that.
MIN_CONTRAST = 70
PHOTOGRAPHS = dict(
    train=['astronaut.png', 'brick.png', 'camera.png', 'cell.png', 'chelsea.png', 'grass.png',
           'hubble_deep_field.jpg', 'ihc.png', 'moon.png', 'retina.jpg', 'rocket.jpg'],
    val=['coffee.png', 'coins.png', 'gravel.png', 'motorcycle_left.png'])


def convert(out: Path, train: int = 600, val: int = 150, seed: int = 0) -> None:
    """Write the data set to ``out``, which appears only when it is whole."""
    if out.exists():
        print(f'{out} is there already')
        return
    partial = out.with_name(f'.{out.name}.tmp')
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'annotations').mkdir(parents=True)
    indices = split()
    for number, (part, scenes) in enumerate([('train', train), ('val', val)]):
        # A generator for each part: the size of one does not change the other.
        write(partial, part, scenes, indices[part], np.random.default_rng((seed, number)))
    os.replace(partial, out)


def write(out: Path, part: str, scenes: int, indices: np.ndarray, rng: np.random.Generator) -> None:
    """Write the scenes of one part ("train" or "val"), made of the digits at ``indices``."""
    (out / part).mkdir()
    (out / 'seg_maps' / part).mkdir(parents=True)
    digits = load_digits()
    photographs = [load_photograph(name) for name in PHOTOGRAPHS[part]]
    order = cycle_shuffled(indices, rng)
    images, annotations = [], []
    for number in range(scenes):
        photograph = photographs[rng.integers(len(photographs))]
        scene, placed = make_scene(photograph, digits.images, order, rng)
        Image.fromarray(scene).save(out / part / f'{number:05d}.jpg', quality=95)
        images.append(dict(
            id=number + 1, file_name=f'{number:05d}.jpg', width=WIDTH, height=HEIGHT))

        seg_map = np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8)
        for index, mask in placed:
            label = int(digits.target[index])
            seg_map[mask] = label
            annotations.append(dict(
                id=len(annotations) + 1, image_id=number + 1, category_id=label + 1,
                **describe(mask), iscrowd=0, digit_index=int(index)))
        Image.fromarray(seg_map).save(out / 'seg_maps' / part / f'{number:05d}.png')
    categories = [dict(id=label + 1, name=str(label)) for label in range(10)]
    (out / 'annotations' / f'{part}.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    print(f'{part}: {len(images)} scenes, {len(annotations)} digits')


def load_photograph(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / 'data' / name).convert('RGB')


def cycle_shuffled(indices: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Every digit once, in random order, then all again in another: none is left out."""
    while True:
        yield from rng.permutation(indices)


def make_scene(photograph: Image.Image, digits: np.ndarray, order: Iterator[int],
               rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Place digits on a piece of a photograph.

    Returns:
        The scene (H, W, 3), and for each digit its index and its visible mask (H, W).
    """
    background = crop(photograph, rng)
    scene = background.copy()
    count = rng.integers(DIGITS[0], DIGITS[1] + 1)
    chosen: list[int] = []
    masks: list[np.ndarray] = []
    inks: list[int] = []  # pixels of each digit, hidden ones included
    for index in (next(order) for _ in range(count)):
        # The first digits always find a place; a late one may not, and is left out.
        for _ in range(50):
            coverage = place(digits[index], rng)
            new = coverage > 0.5
            ink = np.count_nonzero(new)
            covers = sum(np.count_nonzero(mask & new) for mask in masks)
            hidden = [1 - np.count_nonzero(mask & ~new) / whole
                      for mask, whole in zip(masks, inks, strict=True)]
            if max([covers / ink, *hidden]) <= MAX_OVERLAP:
                break
        else:
            continue
        chosen.append(index)
        masks = [mask & ~new for mask in masks] + [new]
        inks.append(ink)
        colour = choose_colour(background[new].mean(axis=0), rng)
        scene += coverage[..., None] * (colour - scene)
    return scene.round().astype(np.uint8), list(zip(chosen, masks, strict=True))


def crop(photograph: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A random piece of a photograph at a random scale, perhaps mirrored: float (H, W, 3)."""
    largest = min(photograph.width / WIDTH, photograph.height / HEIGHT)
    zoom = rng.uniform(min(0.6, largest), min(2, largest))
    width, height = zoom * WIDTH, zoom * HEIGHT
    left, top = rng.uniform(0, [photograph.width - width, photograph.height - height])
    piece = photograph.resize(
        (WIDTH, HEIGHT), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(piece) * rng.uniform(*DIMMED)


def place(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How much of each pixel of a scene a digit covers, at a random size and place: (H, W)."""
    side = rng.uniform(*SIDES)
    height = round(side)
    width = round(side * rng.uniform(0.85, 1.15))
    ink = resize(digit / 16, (height, width), order=3, mode='constant', anti_aliasing=False)
    top, left = rng.integers(0, HEIGHT - height + 1), rng.integers(0, WIDTH - width + 1)
    coverage = np.zeros((HEIGHT, WIDTH))
    # Strokes with an edge about a pixel wide, which is steeper for a small digit.
    coverage[top:top + height, left:left + width] = np.clip((ink - 0.5) * side / 8 + 0.5, 0, 1)
    return coverage


def choose_colour(covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random light colour, clearly brighter than what it covers: as chalk on a photograph."""
    grey = np.array([0.299, 0.587, 0.114])
    while True:
        colour = rng.uniform(80, 255, 3)
        if (colour - covered) @ grey >= MIN_CONTRAST:
            return colour


def describe(mask: np.ndarray) -> dict:
    """Box, area and RLE of a mask, as COCO has them."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        bbox=coco_mask.toBbox(rle).tolist(), area=int(coco_mask.area(rle)),
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Write scenes of handwritten digits')
    parser.add_argument('--out', type=Path, default=Path('data/digit_scenes'))
    parser.add_argument('--train', type=int, default=600, help='number of training scenes')
    parser.add_argument('--val', type=int, default=150, help='number of validation scenes')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    convert(args.out, args.train, args.val, args.seed)
