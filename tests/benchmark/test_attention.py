import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmlit.analysis import count_flops
from mmlit.benchmark.attention import LAYERS


@torch.no_grad()
@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
@pytest.mark.parametrize('name', LAYERS)
def test_layers(name):
    for size in [(14, 14), (10, 16)]:
        layer = LAYERS[name](24, 4, size).eval()
        x = torch.randn(2, *size, 24)
        out = layer(x)
        assert out.shape == x.shape and not torch.equal(out, x)
        assert count_flops(layer, (*size, 24)) > 14 * 10 * 24 * 24


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='timm is not installed')
def test_command_line(tmp_path):
    root, figures, picture = Path(__file__).parents[2], tmp_path / 'a.csv', tmp_path / 'a.png'
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/benchmark_attention.py', '--layers', 'HiLo', 'MHSA',
         '--sizes', '4', '4', '32', '32', '--batch', '2', '--rounds', '1', '--seconds', '0',
         '--csv', figures, '--plot', picture], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with figures.open() as f:
        rows = list(csv.DictReader(f))
    assert [(row['layer'], row['tokens']) for row in rows] == [
        ('HiLo', '4x4'), ('MHSA', '4x4'), ('HiLo', '32x32'), ('MHSA', '32x32')]
    memory = [float(row['MiB']) for row in rows]
    # Weights, and for queries, keys and values of 1024 tokens at least 2 x 9 MB more.
    assert memory[1] >= 4 * 4 * 768**2 / 2**20 - 1 and memory[3] > memory[1] + 15
    assert picture.stat().st_size > 1000


def test_the_papers_layer():
    layer = LAYERS['HiLo'](768, 12, (14, 14))
    assert f'{count_flops(layer, (14, 14, 768)) / 1e6:.1f}' == '298.3'
    assert f'{sum(p.numel() for p in layer.parameters()) / 1e6:.1f}' == '2.2'
