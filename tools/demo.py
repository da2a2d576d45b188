"""From handwritten digits to a trained LITv2, through openmixup: what `make demo` runs.

python tools/demo.py [--work-dir work_dirs/digits]
"""
import argparse
import json
import time
from pathlib import Path

from dataset_converters.digits import convert

from mmlit.command_line import clean_errors, seed

CONFIG = Path(__file__).parents[1] / 'configs/classification/digits/lit_v2_digits_sz64_bs64_ep12.py'
DATA = Path('data/digits')


def parse_args():
    parser = argparse.ArgumentParser(description='Train a small LITv2 on handwritten digits')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/digits'))
    parser.add_argument('--seed', type=seed, default=0)
    return parser.parse_args()


def main():
    args = parse_args()
    with clean_errors():
        convert(DATA)
        from mmlit.openmixup.trainer import test, train
        start = time.perf_counter()
        runner = train(str(CONFIG), str(args.work_dir), seed=args.seed)
        seconds = time.perf_counter() - start
        last = args.work_dir / f'epoch_{runner.epoch}.pth'
        accuracy = test(str(CONFIG), str(last))['head0_top1']
    # Images a second while training, by the trainer's own log: loading included, validation not.
    log = [json.loads(line) for line in (args.work_dir / f'{runner.timestamp}.log.json').open()]
    step = [entry['time'] for entry in log if entry.get('mode') == 'train']
    images = runner.data_loader.batch_size / (sum(step) / len(step))
    picture = args.work_dir / 'predictions.png'
    draw_predictions(runner.model.module, picture)
    print(f'\ntop-1        {accuracy:.2f} % of 360 held-out digits\n'
          f'training     {seconds:.0f} s, {images:.0f} images/s\n'
          f'checkpoint   {last}\n'
          f'predictions  {picture}')


def draw_predictions(model, path: Path, rows: int = 3, columns: int = 8) -> None:
    """Draw held-out images with their predicted class and its probability."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import mmcv
    import torch
    from openmixup.datasets import build_dataset

    dataset = build_dataset(mmcv.Config.fromfile(str(CONFIG)).data.val)
    shown = torch.linspace(0, len(dataset) - 1, rows * columns).round().long().tolist()
    batch = torch.stack([dataset[i]['img'] for i in shown])
    with torch.no_grad():
        scores, labels = model.eval()(batch, mode='inference').max(dim=1)

    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.9 * rows))
    for ax, i, score, label in zip(axes.flat, shown, scores, labels, strict=True):
        image, truth = dataset.data_source.get_sample(i)
        ax.imshow(image, cmap='gray')
        ax.set_title(f'{label} ({score:.0%})', color='green' if label == truth else 'red')
        ax.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == '__main__':
    main()
