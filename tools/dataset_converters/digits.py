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


def convert(out: Path) -> None:
    """Write the data set to ``out``, which appears only when it is whole."""
    if out.exists():
        print(f'{out} is there already')
        return
    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, val = train_test_split(indices, test_size=0.2, random_state=0, stratify=digits.target)
    partial = out.with_name(f'.{out.name}.tmp')
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'meta').mkdir(parents=True)
    for split, chosen in [('train', train), ('val', val)]:
        lines = []
        for i in np.sort(chosen):
            label = digits.target[i]
            name = f'{label}/{i:04d}.png'
            path = partial / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Ink is 0 to 16 in the data: white on black.
            Image.fromarray((digits.images[i] * (255 / 16)).astype(np.uint8)).save(path)
            lines.append(f'{name} {label}\n')
        (partial / 'meta' / f'{split}.txt').write_text(''.join(lines))
        print(f'{split}: {len(lines)} images')
    os.replace(partial, out)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Write scikit-learn\'s digits as image files')
    parser.add_argument('--out', type=Path, default=Path('data/digits'))
    convert(parser.parse_args().out)
