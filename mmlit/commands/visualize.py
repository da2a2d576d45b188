"""Draw predictions: the five best classes, boxes and masks, or segments."""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from PIL import Image

from mmlit.checkpoints import written_whole
from mmlit.command_line import add_config
from mmlit.errors import DatasetError
from mmlit.outputs import add_overwrite, check_writable
from mmlit.visualization import draw_prediction, load_image, load_model


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('checkpoint', help='path or URL, in any layout that mmlit knows')
    parser.add_argument('images', nargs='+', type=Path, help='image files')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='where IMAGE.png goes for each image')
    parser.add_argument('--min-score', type=float, default=0.3,
                        help='leave out detections below this score (default: %(default)s)')
    add_overwrite(parser)


def run(args: Namespace) -> None:
    targets = {args.out / f'{path.stem}.png': path for path in args.images}
    # Everything that can be wrong is found before the first file is written.
    if len(targets) < len(args.images):
        raise DatasetError('two of the images have the same name: draw them into two folders')
    for target, path in targets.items():
        if not path.is_file():
            raise DatasetError(f'cannot read the image {path}: there is no such file')
        if target.exists() and target.samefile(path):
            raise DatasetError(f'--out {args.out} would overwrite {path}')
        check_writable(target, args.overwrite)
    config, model = load_model(args.config, args.checkpoint)
    for path in args.images:
        load_image(config, path)
    for target, path in targets.items():
        picture = draw_prediction(config, model, path, args.min_score)
        with written_whole(target, args.overwrite) as partial:
            Image.fromarray(picture).save(partial)
        print(target)
