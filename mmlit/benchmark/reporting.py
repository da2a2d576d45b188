"""Tables, JSON and pictures of results."""
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from mmlit.checkpoints import written_whole


def environment(device: str) -> dict:
    """The machine and the versions that figures hold for."""
    cpu = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        names = [line.partition(':')[2].strip() for line in
                 Path('/proc/cpuinfo').read_text().splitlines() if line.startswith('model name')]
        cpu = names[0] if names else cpu
    return dict(
        device=torch.cuda.get_device_name() if device == 'cuda' else cpu,
        threads=torch.get_num_threads(), torch=torch.__version__, python=platform.python_version(),
        load_average=[round(x, 2) for x in os.getloadavg()])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of them the head, as a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + ' |'
             for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join(lines)


def write_json(path: Path, content: dict) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def scatter(path: Path, points: dict[str, tuple[float, float]], xlabel: str, ylabel: str,
            title: str) -> None:
    """Draw named points; LITv2's in another colour."""
    plt = _pyplot()
    figure, ax = plt.subplots(figsize=(7, 5))
    for name, (x, y) in points.items():
        ax.scatter(x, y, color='tab:red' if name.startswith('litv2') else 'tab:blue')
    ax.margins(x=0.1, y=0.1)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    figure.tight_layout()
    _name_points(ax, points)
    _save(figure, path)


def _name_points(ax, points: dict[str, tuple[float, float]]) -> None:
    """Write names beside points, towards the middle, each above those that it would cover."""
    middle, taken = sum(ax.get_xlim()) / 2, []
    for name, (x, y) in sorted(points.items(), key=lambda point: point[1][1]):
        side, align = (-6, 'right') if x > middle else (6, 'left')
        label = ax.annotate(name, (x, y), textcoords='offset points', xytext=(side, -3), ha=align,
                            fontsize=7)
        while any(label.get_window_extent().overlaps(box) for box in taken):
            label.xyann = (side, label.xyann[1] + 1)
        taken.append(label.get_window_extent())


def curves(path: Path, lines: dict[str, list[tuple[float, float]]], xlabel: str,
           ylabel: str) -> None:
    """Draw named curves over logarithmic axes."""
    plt = _pyplot()
    figure, ax = plt.subplots(figsize=(7, 5))
    for name, points in lines.items():
        ax.plot(*zip(*points, strict=True), marker='o', label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale='log', yscale='log')
    ax.legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)


def _pyplot():
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot
    return matplotlib.pyplot


def _save(figure, path: Path) -> None:
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=120)
