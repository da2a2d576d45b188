"""scikit-learn's handwritten digits as an ImageNet-style folder with list files.

python tools/dataset_converters/digits.py [--out data/digits]

Writes OUT/{train,val}/LABEL/INDEX.png (8 x 8 pixels, as scanned by E. Alpaydin and C. Kaynak, UCI)
and OUT/meta/{train,val}.txt with lines "LABEL/INDEX.png LABEL". A fifth of each class is held out.
"""
import argparse
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def split() -> dict[str, np.ndarray]:
    """Which of scikit-learn's digits train and which are held out: ascending indices."""
    labels = load_digits().target
    train, val = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    return dict(train=np.sort(train), val=np.sort(val))


def convert(out: Path) -> None:
    """Write the data set to ``out``, which appears only when it is whole."""
    if out.exists():
        print(f'{out} is there already')
        return
    digits = load_digits()
    partial = out.with_name(f'.{out.name}.tmp')
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'meta').mkdir(parents=True)
    for part, chosen in split().items():
        lines = []
        for i in chosen:
            label = digits.target[i]
            name = f'{label}/{i:04d}.png'
            path = partial / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Ink is 0 to 16 in the data: white on black.
            Image.fromarray((digits.images[i] * (255 / 16)).astype(np.uint8)).save(path)
            lines.append(f'{name} {label}\n')
        (partial / 'meta' / f'{part}.txt').write_text(''.join(lines))
        print(f'{part}: {len(lines)} images')
    os.replace(partial, out)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Write scikit-learn\'s digits as image files')
    parser.add_argument('--out', type=Path, default=Path('data/digits'))
    convert(parser.parse_args().out)
