"""Detection and segmentation of handwritten digits: what `make demo-dense` runs.

python tools/demo_dense.py [--from-random] [--only retinanet] [--work-dir work_dirs/digit_scenes]

Trains RetinaNet, Mask R-CNN and Semantic FPN on scenes of digits, each with the small LITv2 that
`make demo` trained to tell digits apart (or, for comparison, from random weights), tests the last
weights through tools/test.py, and draws predictions beside the ground truth. Killed and run again,
it goes on where it was.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from dataset_converters.digit_scenes import convert
from mmengine.registry import DATASETS
from PIL import Image

from mmlit.command_line import clean_errors, seed
from mmlit.visualization import beside, draw_ground_truth, draw_prediction, load_model
from mmlit.work_dir import latest_checkpoint

ROOT = Path(__file__).parents[1]
DATA = Path('data/digit_scenes')
CLASSIFIER = Path('work_dirs/digits/epoch_12.pth')
RUNS = {  # config; figures of tools/test.py by their names there, and the target of the first
    'retinanet': ('detection/digits/retinanet_litv2-digits.py',
                  {'box AP50': 'coco/bbox_mAP_50', 'box AP': 'coco/bbox_mAP'}, 80),
    'mask-rcnn': ('detection/digits/mask-rcnn_litv2-digits.py',
                  {'mask AP50': 'coco/segm_mAP_50', 'mask AP': 'coco/segm_mAP',
                   'box AP50': 'coco/bbox_mAP_50'}, 80),
    'fpn': ('segmentation/digits/fpn_litv2-digits.py', {'mIoU': 'mIoU'}, 75),
}
SHOWN = 4  # validation images that are drawn


def parse_args():
    parser = argparse.ArgumentParser(description='Train detectors and a segmentor of digits')
    parser.add_argument('--work-dir', type=Path)
    parser.add_argument('--from-random', action='store_true',
                        help='start from random weights instead of the classifier')
    parser.add_argument('--only', choices=RUNS, help='run one of the three')
    parser.add_argument('--seed', type=seed, default=0)
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override settings of the configs')
    args = parser.parse_args()
    default = 'digit_scenes_random' if args.from_random else 'digit_scenes'
    args.work_dir = args.work_dir or Path('work_dirs') / default
    return args


def main():
    args = parse_args()
    if not args.from_random and not CLASSIFIER.is_file():
        sys.exit(f'error: {CLASSIFIER} is not there: run `make demo` first, which trains it')
    convert(DATA)
    rows = []
    for name in [args.only] if args.only else RUNS:
        relative, metrics, target = RUNS[name]
        config, work_dir = ROOT / 'configs' / relative, args.work_dir / name
        start_from = ['model.backbone.init_cfg=None'] if args.from_random else []
        start = time.perf_counter()
        run('train.py', config, '--work-dir', work_dir, '--resume', '--cfg-options',
            f'randomness.seed={args.seed}', *start_from, *args.cfg_options)
        seconds = time.perf_counter() - start
        checkpoint, result = latest_checkpoint(work_dir), work_dir / 'result.json'
        run('test.py', config, checkpoint, '--out', result, '--overwrite')
        result = json.loads(result.read_text())
        # COCO's metrics are parts of one, mmseg's are per cent.
        scale = 1 if 'mIoU' in metrics else 100
        if not result:  # mmdet's metric is silent when nothing at all was found
            result = dict.fromkeys(metrics.values(), 0)
        values = [f'{label} {scale * result[key]:.1f}' for label, key in metrics.items()]
        values[0] += f' (target {target})'
        with clean_errors():
            draw(config, checkpoint, work_dir / 'pictures')
        rows.append(f'{name}: {", ".join(values)}; trained in {seconds:.0f} s\n'
                    f'    {checkpoint}, {work_dir / "pictures"}')
    print('\n' + '\n'.join(rows))


def run(script: str, *args) -> None:
    """Run a tool as a user would; stop where it stops."""
    command = [sys.executable, '-W', 'ignore', ROOT / 'tools' / script, *args]
    done = subprocess.run([str(c) for c in command], env=dict(os.environ, PYTHONUNBUFFERED='1'))
    if done.returncode:
        sys.exit(done.returncode)


def draw(config_path: Path, checkpoint: str, out: Path) -> None:
    """Draw validation images: the ground truth on the left, the prediction on the right."""
    config, model = load_model(str(config_path), checkpoint)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    out.mkdir(parents=True, exist_ok=True)
    for index in range(SHOWN):
        path = Path(dataset.get_data_info(index)['img_path'])
        pair = beside(draw_ground_truth(dataset, index), draw_prediction(config, model, path))
        Image.fromarray(np.ascontiguousarray(pair)).save(out / f'{path.stem}.png')


if __name__ == '__main__':
    main()
