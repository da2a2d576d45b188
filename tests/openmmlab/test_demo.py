"""`make demo-dense`, cut to a few steps on a few scenes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('skimage')
ROOT = Path(__file__).parents[2]
CONVERTER = ROOT / 'tools/dataset_converters/digit_scenes.py'
FEW_STEPS = {
    'retinanet': ('train_cfg.max_epochs=1', 'coco/bbox_mAP_50'),
    'mask-rcnn': ('train_cfg.max_epochs=1', 'coco/segm_mAP_50'),
    'fpn': ('train_cfg.max_iters=2', 'mIoU'),
}


def run(*command, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)], text=True, capture_output=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'), **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize('name', FEW_STEPS)
def test_trains_tests_and_draws(name, tmp_path):
    steps, metric = FEW_STEPS[name]
    assert run(CONVERTER, '--train', 16, '--val', 4, cwd=tmp_path).returncode == 0
    command = [ROOT / 'tools/demo_dense.py', '--only', name, '--from-random',
               '--cfg-options', steps]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    work_dir = tmp_path / 'work_dirs/digit_scenes_random' / name
    result = json.loads((work_dir / 'result.json').read_text())
    assert metric in result or (metric.startswith('coco') and not result)  # nothing was found
    pictures = sorted((work_dir / 'pictures').iterdir())
    assert [p.name for p in pictures] == [f'{i:05d}.png' for i in range(4)]
    width, height = Image.open(pictures[0]).size
    assert width > 2 * height  # the truth and, beside it, the prediction
    assert f'{name}: ' in done.stdout.splitlines()[-2]

    again = run(*command, cwd=tmp_path)  # goes on where it was, at the end
    assert again.returncode == 0 and 'resumed' in again.stdout + again.stderr


def test_says_what_it_starts_from(tmp_path):
    done = run(ROOT / 'tools/demo_dense.py', cwd=tmp_path)
    assert done.returncode == 1 and 'run `make demo` first' in done.stderr
    assert not (tmp_path / 'data').exists()
