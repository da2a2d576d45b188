import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec('mmcv') is None,
                                reason='mmcv is not installed')


def test_command_line(tmp_path):
    root, figures = Path(__file__).parents[2], tmp_path / 'a.json'
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/benchmark_mmcv_ops.py', '--no-detectors', '--only',
         'stride 16', '--scale', '0.1', '--rounds', '1', '--seconds', '0', '--threads', '1',
         '--cpu-time', '--json', figures], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    times = json.loads(figures.read_text())['seconds']
    assert len(times) == 6 and all(t['mmlit'] > 0 for t in times.values())
    compiled = all('mmcv' in t for t in times.values())
    assert compiled != ('no compiled operators to compare with' in run.stdout)
