"""Pictures of predictions and of ground truth, for all three tasks, as RGB arrays.

mmengine's Visualizer draws. mmdet's and mmseg's own build on it, but write labels of 6 points that
end at the border of the picture, darken pixels without a class, and know no legend.
"""
import colorsys
import math
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from mmengine.visualization import Visualizer
from PIL import Image

from mmlit.checkpoints import load_checkpoint
from mmlit.command_line import trainer_for
from mmlit.config_types import type_name
from mmlit.errors import ConfigError, DatasetError
from mmlit.test_pipelines import dataset_of_tests

SHORT_SIDE, LONG_SIDE = 480, 1920  # smaller images are enlarged, for legible labels


def load_model(path: str, checkpoint: str):
    """The loaded config at ``path``, and its model, filled and in eval mode.

    Raises:
        MMLitError: If what the config needs is not there, it does not build, or the
            checkpoint does not fit.
    """
    trainer, generation = trainer_for(path)
    config = trainer.load_config(path)
    if generation == 'mmengine' and 'test_dataloader' not in config:
        raise ConfigError(f'the config {path} has no test_dataloader: its pipeline is needed')
    model = trainer.build_model(config)
    load_checkpoint(model, checkpoint, strict=True)
    return config, model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()


def load_image(config, path: str | Path) -> np.ndarray:
    """What the config's pipeline for tests loads from an image file, as RGB: the model's view.

    Whether EXIF turns it, and how many channels it has, is thus as in the training. Of one channel
    the picture is grey, of several the first three are shown.

    Raises:
        DatasetError: If the file is missing or no image.
        ConfigError: If the pipeline loads images from something else than a file.
    """
    if 'data' in config:
        picture, is_bgr = _openmixup_image(config, path)
        pixels = np.asarray(picture)
        return pixels[..., ::-1] if is_bgr else pixels
    load, _ = _loading(config)
    return _as_rgb(_loaded(load, _facts(path)))


def _facts(path: str | Path) -> dict:
    """What a data set would tell its pipeline about an image."""
    return dict(img_path=str(path), img_id=0)


def _loading(config) -> tuple[Compose, list]:
    """The steps of a pipeline for tests up to the one that loads the image, and the others.

    Annotations are left out: an image that is drawn has none.
    """
    init_default_scope(config.get('default_scope', 'mmengine'))
    steps = [step for step in dataset_of_tests(config)['pipeline']
             if not re.fullmatch(r'Load\w*Annotations', type_name(step['type']))]
    first = [i for i, step in enumerate(steps)
             if re.match('Load.*Image', type_name(step['type']))]
    if not first:
        raise ConfigError(f'the config {config.filename} has no step that loads an image in its '
                          'pipeline for tests')
    return Compose(steps[:first[0] + 1]), steps[first[0] + 1:]


def _loaded(load: Callable, facts: dict) -> dict:
    """What the loading of a pipeline makes of an image file."""
    path = Path(facts['img_path'])
    if not path.is_file():
        raise DatasetError(f'cannot read the image {path.absolute()}: there is no such file')
    try:
        data = load(dict(facts))
    except Exception as e:  # decoders raise what they like
        raise DatasetError(f'cannot read the image {path.absolute()}: {e}') from None
    if not isinstance(data, dict) or not isinstance(data.get('img'), np.ndarray):
        raise ConfigError(f'the pipeline for tests does not load {path} as an image')
    return data


def _as_rgb(data: dict) -> np.ndarray:
    """The loaded image for people's eyes."""
    pixels = data['img']
    if pixels.dtype != np.uint8:  # 16 bits, or float32 of either
        most = 65535 if pixels.size and pixels.max() > 255 else 255
        pixels = np.clip(pixels * (255 / most), 0, 255).astype(np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(pixels[..., 2::-1] if pixels.shape[2] >= 3
                                else pixels[..., :1].repeat(3, 2))


def draw_prediction(config, model, image_path: str | Path, min_score: float = 0.3) -> np.ndarray:
    """Draw what a model sees in an image.

    Args:
        config: A loaded config; its test pipeline prepares the image.
        model: The model, in eval mode.
        image_path: The image.
        min_score: Detections below this score are left out.

    Returns:
        RGB: the image, enlarged if small, beside its five best classes, or with boxes and masks, or
        with classes in colour and a legend.
    """
    if 'data' in config:
        image = load_image(config, image_path)
        return draw_scores(image, *_openmixup_scores(config, model, image_path))
    load, rest = _loading(config)
    loaded = _loaded(load, _facts(image_path))
    image = _as_rgb(loaded)
    dataset = dict(dataset_of_tests(config), lazy_init=True)  # its files need not be there
    classes, palette = _classes_and_palette(DATASETS.build(dataset).metainfo)
    data = Compose(rest)(loaded)
    with torch.no_grad():
        found = model.test_step({key: [data[key]] for key in ('inputs', 'data_samples')})[0].cpu()
    if 'pred_score' in found:
        return draw_scores(image, found.pred_score, classes)
    if 'pred_sem_seg' in found:
        return draw_segments(image, found.pred_sem_seg.data[0], classes, palette)
    if 'pred_instances' not in found:
        raise ConfigError(f'the model of {config.filename} finds neither classes, nor boxes, nor '
                          f'segments, but {list(found.keys())}: there is nothing to draw')
    found = found.pred_instances[found.pred_instances.scores >= min_score]
    if len(found) and found.labels.max() >= len(classes):
        raise ConfigError(f'the model finds the class {found.labels.max()}, counted from 0, but '
                          f'the data set has {len(classes)} classes, {list(classes)[:10]}: '
                          'num_classes of the head and metainfo.classes of '
                          'test_dataloader.dataset do not fit')
    # mmdet has sorted them by score: labels of the best are the first to find a place.
    return draw_instances(image, found.bboxes, found.labels, classes, palette, found.get('masks'),
                          found.scores)


def draw_ground_truth(dataset, index: int) -> np.ndarray:
    """Draw the annotations of an image as :func:`draw_prediction` draws predictions.

    Args:
        dataset: mmdet's or mmseg's. Masks are drawn if its LoadAnnotations loads them.
        index: Which image of it.
    """
    info, steps = dataset.get_data_info(index), dataset.pipeline.transforms
    images = [t for t in steps if type(t).__name__.startswith('LoadImage')]
    load = [t for t in steps if type(t).__name__ == 'LoadAnnotations']
    if not load or not images:
        raise ConfigError('the pipeline of this dataset has no LoadAnnotations, or none that loads '
                          'images')
    truth = _loaded(images[0], info)
    image = _as_rgb(truth)
    truth = load[0](truth)
    meta = _classes_and_palette(dataset.metainfo)
    if 'gt_seg_map' in truth:
        return draw_segments(image, truth['gt_seg_map'], *meta)
    counted = ~truth['gt_ignore_flags']
    masks = truth['gt_masks'].to_ndarray()[counted] if 'gt_masks' in truth else None
    return draw_instances(image, truth['gt_bboxes'].tensor[counted],
                          truth['gt_bboxes_labels'][counted], *meta, masks)


def draw_scores(image: np.ndarray, scores: torch.Tensor, classes) -> np.ndarray:
    """Draw the five best classes, with bars, beside an image."""
    image, _ = _enlarge(image)
    width, height = 360, SHORT_SIDE
    panel = Visualizer(image=np.full((height, width, 3), 255))
    for rank, label in enumerate(scores.argsort(descending=True)[:5].tolist()):
        name, score, top = _name(classes, label), float(scores[label]), 20 + 92 * rank
        name = name if len(name) < 31 else f'{name[:29]}…'  # ImageNet's are lists of synonyms
        panel.draw_texts([name, f'{score:.1%}'], np.array([[16, top], [width - 16, top]]),
                         font_sizes=11, colors='k', horizontal_alignments=['left', 'right'])
        bars = np.array([[16, top + 26, x, top + 50] for x in (width - 16, 16 + 328 * score)])
        panel.draw_bboxes(bars, edge_colors='none', face_colors=['gainsboro', 'tab:blue'], alpha=1)
    return beside(image, panel.get_image())


def draw_segments(image: np.ndarray, labels, classes, palette) -> np.ndarray:
    """Blend classes (H, W) into an image, beside a legend; what is no class stays as it is."""
    image, _ = _enlarge(image)
    labels = cv2.resize(np.asarray(labels, np.uint16), image.shape[1::-1],
                        interpolation=cv2.INTER_NEAREST)
    present = [i for i in np.unique(labels).tolist() if i < len(classes)]
    if not present:
        return image
    colours, picture = [palette[i] for i in present], Visualizer(image=image)
    _draw_masks(picture, [labels == i for i in present], colours)
    return beside(picture.get_image(), _draw_legend([classes[i] for i in present], colours, image))


def draw_instances(image: np.ndarray, boxes, labels, classes, palette, masks=None, scores=None):
    """Draw boxes (N, 4) and perhaps masks (N, H, W) in an image, with labels and scores."""
    image, scale = _enlarge(image)
    if len(labels) == 0:
        return image
    colours, picture = [palette[i] for i in labels], Visualizer(image=image)
    size = image.shape[1::-1]
    if masks is not None:
        masks = [cv2.resize(np.asarray(mask, np.float32), size) > 0.5 for mask in masks]
        _draw_masks(picture, masks[::-1], colours[::-1])  # the best above the others
    line = _font_size(image) / 5
    boxes = (np.asarray(boxes) * scale).clip(line, np.array(size * 2) - line)  # no line is cut
    picture.draw_bboxes(boxes[::-1], edge_colors=colours[::-1], line_widths=line, alpha=1)
    taken = []
    for i, label in enumerate(labels):
        text = _name(classes, label) + ('' if scores is None else f' {scores[i]:.2f}')
        taken.append(_draw_label(picture, image, text, boxes[i], colours[i], taken))
    return picture.get_image()


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures side by side, on white."""
    height = max(map(len, pictures))
    return np.hstack([np.pad(p, ((0, height - len(p)), (0, 8), (0, 0)), constant_values=255)
                      for p in pictures])[:, :-8]


def _draw_masks(picture: Visualizer, masks: list[np.ndarray], colours: list) -> None:
    """Blended, which mixes the colours of class and image, with an outline that is of the class."""
    inner = [cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0 for mask in masks]
    picture.draw_binary_masks(np.stack(masks), colours, alphas=0.5)
    picture.draw_binary_masks(np.stack(masks) & ~np.stack(inner), colours, alphas=1.0)


def _draw_label(picture: Visualizer, image: np.ndarray, text: str, box, colour, taken) -> tuple:
    """Write above a box, or below or in it: where there is room, and no other label is."""
    size, bright = _font_size(image), np.dot(colour, (0.299, 0.587, 0.114)) > 140
    picture.draw_texts(
        text, np.zeros(2), font_sizes=size, colors='k' if bright else 'w',
        bboxes=dict(facecolor=np.divide(colour, 255), edgecolor='none', pad=size / 10))
    drawn = picture.ax_save.texts[-1]
    extent, margin = drawn.get_window_extent(), size / 5
    w, h = extent.width + 2 * margin, extent.height + 2 * margin
    x1, y1, x2, y2 = box
    places = [(max(min(x, image.shape[1] - w), 0), y)
              for y in (y1 - h, y2, y1, y2 - h, y1 - 2 * h, y2 + h) for x in (x1, x2 - w)]
    inside = [(x, y, x + w, y + h) for x, y in places if 0 <= y <= len(image) - h]
    free = [a for a in inside if not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in taken)]
    place = (free or inside or [(x1, 0, x1 + w, h)])[0]
    drawn.set(position=(place[0] + margin, place[1] + margin),
              zorder=3 - len(taken) / 1000)  # where all are taken, under the earlier ones
    return place


def _draw_legend(names: list[str], colours: list, image: np.ndarray) -> np.ndarray:
    """Names beside their colours, in as many columns as the height of the image asks for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    figure, size = Figure(), _font_size(image)
    canvas, rows = FigureCanvasAgg(figure), max(1, int(len(image) / size / 2.4) - 1)
    legend = figure.legend([Patch(facecolor=np.divide(c, 255)) for c in colours], names,
                           loc='upper left', fontsize=size, ncols=math.ceil(len(names) / rows))
    extent = legend.get_window_extent()
    height = max(extent.height + 2 * size, len(image))
    figure.set_size_inches((extent.width + 2 * size) / figure.dpi, height / figure.dpi)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _openmixup_image(config, path: str | Path) -> tuple[Image.Image, bool]:
    """An image as openmixup's data sources give it to the pipeline, and whether it is BGR."""
    backend = dataset_of_tests(config, 'openmixup').get('data_source', {}).get('backend', 'pillow')
    try:
        if backend == 'pillow':
            with Image.open(path) as image:
                return image.convert('RGB'), False
        pixels = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        return Image.fromarray(pixels), True
    except Exception as e:  # decoders raise what they like
        raise DatasetError(f'cannot read the image {Path(path).absolute()}: {e}') from None


def _openmixup_scores(config, model, path: str | Path) -> tuple[torch.Tensor, list[str]]:
    """Probabilities, and the names of the classes where openmixup's data source has them."""
    from openmixup.datasets.registry import DATASOURCES, PIPELINES
    from openmixup.utils import build_from_cfg
    data = dataset_of_tests(config, 'openmixup')
    image, _ = _openmixup_image(config, path)
    steps = [*data['pipeline']]
    if data.get('prefetch'):  # there, the loader would do it
        steps += [dict(type='ToTensor'), dict(type='Normalize', **config.img_norm_cfg)]
    for step in steps:
        image = build_from_cfg(dict(step), PIPELINES)(image)
    with torch.no_grad():
        scores = model(image[None].to(next(model.parameters()).device), mode='inference')
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        raise ConfigError(f'the model of {config.filename} does not give one score for each class: '
                          'there is nothing to draw')
    source = data.get('data_source', {}).get('type')
    return scores[0].cpu(), getattr(DATASOURCES.get(source), 'CLASSES', None) or []


def _classes_and_palette(metainfo: dict) -> tuple[list[str], list[tuple]]:
    classes, palette = metainfo.get('classes') or [], metainfo.get('palette')
    if not isinstance(palette, list | tuple) or len(palette) != len(classes):  # another set's
        # The golden angle keeps hues of neighbours apart; brightness tells those that meet again.
        palette = [np.multiply(255, colorsys.hsv_to_rgb(0.382 * i % 1, 0.9, 1 - i % 3 / 4))
                   for i in range(len(classes))]
    return classes, [tuple(colour) for colour in palette]


def _name(classes, label) -> str:
    return classes[label] if label < len(classes) else f'class {label}'


def _font_size(image: np.ndarray) -> float:
    return max(11, math.sqrt(image.shape[0] * image.shape[1]) / 80)


def _enlarge(image: np.ndarray) -> tuple[np.ndarray, float]:
    short, long = sorted(image.shape[:2])
    scale = max(1, min(SHORT_SIDE / short, LONG_SIDE / long))
    height, width = (round(scale * side) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), scale
