"""Where images and their labels come from: a list, or the folders themselves."""
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.logging import print_log
from openmixup.datasets.data_sources import ImageList as OpenmixupImageList
from openmixup.datasets.data_sources import ImageNet as OpenmixupImageNet

from mmlit.errors import ConfigError, DatasetError

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp'}
SEPARATORS = (' ', '\t', ',', ';')


class ImageList(OpenmixupImageList):
    """openmixup's, which splits lines at every separator, so that names cannot hold one, and needs
    a list.

    Args:
        root: Folder of the images.
        list_file: Lines "PATH LABEL", or "PATH"; None for the images in the folders of ``root``.
        splitor: Separator of path and label, of which the last in a line counts; a space is any
            white space.
        classes: For ``list_file=None``: names of folders, whose positions are the labels; None for
            no labels.
        file_client_args: As in openmixup.
        return_label: As in openmixup.

    Raises:
        DatasetError: If a line cannot be understood; later, if an image cannot be read.
    """

    def __init__(self, root: str, list_file: str | None = None, splitor: str = ' ',
                 classes: Sequence[str] | None = None, file_client_args: dict | None = None,
                 return_label: bool = True):
        if splitor not in SEPARATORS:
            raise ConfigError(f'data_source.splitor={splitor!r}: expected one of {SEPARATORS}')
        if list_file is None:
            self.fns, self.labels = images_in(root, classes)
        else:
            names, self.labels = read_list(list_file, splitor)
            self.fns = [os.path.join(root, name) for name in names]
        self.has_labels = self.labels is not None
        self.return_label = return_label
        self.file_client_args = file_client_args or dict(backend='pillow')
        self.backend = self.file_client_args.get('backend', 'pillow')
        self.file_client = None
        if self.backend != 'pillow':
            self.file_client = mmcv.FileClient(**self.file_client_args)

    def get_sample(self, idx: int):
        try:
            return super().get_sample(idx)
        # Pillow raises OSError or SyntaxError (a broken PNG), openmixup ValueError.
        except (OSError, SyntaxError, ValueError) as e:
            raise DatasetError(f'cannot read the image {self.fns[idx]}: {e}. Replace it, or take '
                               'it out of the data set.') from None


class ImageNet(ImageList):
    """:class:`ImageList` with the names of ImageNet's classes."""

    CLASSES = OpenmixupImageNet.CLASSES


# openmixup's names of the sources that are replaced.
SOURCES = dict(ImageList=ImageList, ImageNet=ImageNet)


def read_list(path: str | Path, separator: str) -> tuple[list[str], list[int] | None]:
    """Names and labels of a list; labels are None if its first line has none.

    Raises:
        DatasetError: If it cannot be read, or a line differs from the first in kind.
    """
    path = Path(path).absolute()
    try:
        lines = path.read_text('utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DatasetError(f'cannot read the list file {path}: {e}') from None
    lines = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not lines:
        raise DatasetError(f'the list file {path} is empty')
    labelled = _split(lines[0][1], separator)[1] is not None
    names, labels = [], []
    for number, line in lines:
        name, label = _split(line, separator) if labelled else (line, None)
        if labelled and label is None:
            raise DatasetError(f'{path}, line {number}: expected "PATH{separator}LABEL" with a '
                               f'label from 0 on, got {line!r}')
        names.append(name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name)
        labels.append(label)
    return names, labels if labelled else None


def _split(line: str, separator: str) -> tuple[str, int | None]:
    parts = line.rsplit(None if separator.isspace() and separator != '\t' else separator, 1)
    label = parts[-1].strip()
    if len(parts) == 2 and label.isascii() and label.isdigit():
        return parts[0].strip(), int(label)
    return line, None


def class_folders(root: str | Path) -> list[str]:
    """Names of the folders in ``root``, sorted: their positions are the labels, as in torchvision's
    ImageFolder."""
    return sorted(entry.name for entry in os.scandir(root)
                  if entry.is_dir() and not entry.name.startswith('.'))


def images_in(root: str | Path,
              classes: Sequence[str] | None) -> tuple[list[str], list[int] | None]:
    """Paths of all images in the folders of classes, and their labels; of all images anywhere under
    ``root``, and None, if there are no classes."""
    if classes is None:
        return _images(Path(root)), None
    found = [(path, label) for label, name in enumerate(classes)
             for path in _images(Path(root, name))]
    return [path for path, _ in found], [label for _, label in found]


def _images(folder: Path) -> list[str]:
    return sorted(
        os.path.join(parent, name) for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith('.'))


def prepare_source(source: dict, split: str, train: dict | None, hint: str) -> None:
    """Check that the images and labels of a source are there, and set in its config how to read
    them: in place.

    Where there is no list, the images in its folders are taken, in memory.

    Args:
        source: Config of an ImageList or ImageNet.
        split: Its place in the config, such as 'val', for messages.
        train: Config of the training's source, whose folders name the classes of the others; None
            for that one itself.
        hint: What to do when the data are not there.

    Raises:
        DatasetError: If they are not there, or the folders do not tell the classes.
    """
    list_file, root = source.get('list_file'), Path(source.get('root') or '.')
    kind = SOURCES[source['type']]
    if not root.is_dir():
        raise _not_there(split, 'root', root, hint)
    if list_file and Path(list_file).is_file():
        source['type'] = kind
        return
    classes = None
    if source.get('return_label', True):
        classes = class_folders(root)
        if not classes or not any(_images(root / name) for name in classes):
            raise _not_there(split, 'list_file', list_file, f'There are no folders of images '
                             f'in {root} either. {hint}')
        if train is None:
            _refuse_empty(root, classes)
        else:
            classes = _classes_of(train, split, root, classes)
    count = len(images_in(root, classes)[0])
    if count == 0:
        raise _not_there(split, 'list_file', list_file, f'There are no images in {root} either. '
                         f'{hint}')
    source.update(type=kind, list_file=None, classes=classes)
    _say_folders(split, root, count, classes)


def _refuse_empty(root: Path, classes: Sequence[str]) -> None:
    empty = [name for name in classes if not _images(root / name)]
    if empty:
        raise DatasetError(f'the folder {root / empty[0]} holds no image, so that it is not clear '
                           'whether it is a class: remove it, or put images there')


def _classes_of(train: dict, split: str, root: Path, found: list[str]) -> list[str]:
    """The classes of the training, if its images are here, for folders found elsewhere."""
    if train.get('list_file') and Path(train['list_file']).is_file():
        raise DatasetError(f'data.{split} has no list, but the training has one '
                           f'({train["list_file"]}): what the folders of {root} are labelled with '
                           'is not known. Write a list for both, or for none.')
    if not Path(train.get('root') or '.').is_dir():
        return found
    classes = class_folders(train.get('root') or '.')
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DatasetError(f'{root} has the folder {unknown[0]!r}, which is no class of the '
                           f'training: {train.get("root")} has {", ".join(classes[:10])}')
    return classes


def _not_there(split: str, key: str, path, hint: str) -> DatasetError:
    looked = f' is {path}, looked for at {Path(path).absolute()}' if path else ' is not set'
    return DatasetError(f'the data set is not there: data.{split}.data_source.{key}{looked}. '
                        f'{hint}')


def _say_folders(split: str, root: str | Path, count: int, classes: Sequence[str] | None) -> None:
    """Log what is taken in place of a list."""
    labels = 'without labels' if classes is None else (
        f'in {len(classes)} classes, by the sorted names of the folders: '
        f'{", ".join(classes[:5])}{", ..." if len(classes) > 5 else ""}')
    print_log(f'data.{split} has no list: {count} images of {root}, {labels}', logger='current',
              level=logging.WARNING)
