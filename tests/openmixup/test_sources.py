"""Lists of images as people write them, and folders in place of lists."""
import pytest
import torch
from PIL import Image

from mmlit.errors import ConfigError, DatasetError
from mmlit.openmixup.data import build_dataset
from mmlit.openmixup.hooks import existing_topk
from mmlit.openmixup.sources import read_list

PIPELINE = [dict(type='Resize', size=(32, 32)), dict(type='ToTensor')]


def make_images(root, *names):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(path, format='PNG')


def classification(root, kind='ImageList', **source) -> dict:
    return dict(type='ClassificationDataset', pipeline=PIPELINE,
                data_source=dict(type=kind, root=str(root), **source))


@pytest.mark.parametrize('text, separator, names, labels', [
    ('a b/my cat.png 0\ndog.png 12\n', ' ', ['a b/my cat.png', 'dog.png'], [0, 12]),
    ('a b.png\t0\ndog.png   1\n\n', ' ', ['a b.png', 'dog.png'], [0, 1]),
    ('a b.png\t0\nx\ty.png\t1\n', '\t', ['a b.png', 'x\ty.png'], [0, 1]),
    ('a,b.png,0\nc.png, 1\n', ',', ['a,b.png', 'c.png'], [0, 1]),
    ('"a b.png" 0\n', ' ', ['a b.png'], [0]),
    ('\ufeffa.png 0\r\nb.png 1\r\n', ' ', ['a.png', 'b.png'], [0, 1]),
    ('my cat.png\nmy dog.png\n', ' ', ['my cat.png', 'my dog.png'], None),
    ('a;b.png;3\n', ';', ['a;b.png'], [3]),
])
def test_lines_are_split_at_the_last_separator(tmp_path, text, separator, names, labels):
    (tmp_path / 'list.txt').write_bytes(text.encode())
    assert read_list(tmp_path / 'list.txt', separator) == (names, labels)


@pytest.mark.parametrize('text, problem', [
    ('', 'is empty'), ('\n\n', 'is empty'), ('a.png 0\nb.png\n', 'line 2'),
    ('a.png 0\n\nb.png -1\n', 'line 3'), ('a.png 0\nb.png 1.5\n', 'line 2')])
def test_lists_that_cannot_be_read(tmp_path, text, problem):
    (tmp_path / 'list.txt').write_text(text)
    with pytest.raises(DatasetError, match=problem):
        read_list(tmp_path / 'list.txt', ' ')
    (tmp_path / 'binary.txt').write_bytes(b'\xff\xfe\x00 0\n')
    with pytest.raises(DatasetError, match='binary.txt'):
        read_list(tmp_path / 'binary.txt', ' ')


def test_names_with_spaces_are_found(tmp_path):
    make_images(tmp_path, 'a b/my cat.png', 'dog.png')
    (tmp_path / 'list.txt').write_text('a b/my cat.png\t1\ndog.png 0\n')
    dataset = build_dataset(classification(tmp_path, list_file=str(tmp_path / 'list.txt')), 'train')
    assert [dataset[i]['gt_label'] for i in (0, 1)] == [1, 0] and len(dataset) == 2
    assert list(dataset.targets) == [1, 0]


def test_a_separator_that_is_none(tmp_path):
    make_images(tmp_path, 'a.png')
    (tmp_path / 'list.txt').write_text('a.png 0\n')
    with pytest.raises(ConfigError, match="splitor='x'"):
        build_dataset(classification(tmp_path, list_file=str(tmp_path / 'list.txt'), splitor='x'),
                      'train')


@pytest.mark.parametrize('kind', ['ImageList', 'ImageNet'])
@pytest.mark.parametrize('list_file', [{}, {'list_file': None}, {'list_file': 'none/train.txt'}])
def test_folders_are_the_classes_where_there_is_no_list(tmp_path, kind, list_file):
    """Sorted, as in torchvision's ImageFolder: nested, linked, upper-case, not hidden ones."""
    root = tmp_path / 'train'
    make_images(root, 'b dog/1.PNG', 'b dog/deep/2.jpeg', 'a cat/3.webp', '.cache/4.png',
                'b dog/._1.PNG')
    make_images(tmp_path, 'elsewhere/5.bmp')
    (root / 'c linked').symlink_to(tmp_path / 'elsewhere')
    (root / 'b dog/notes.txt').write_text('no image')
    (root / 'b dog/Thumbs.db').write_bytes(b'no image')
    before = sorted(tmp_path.rglob('*'))
    dataset = build_dataset(classification(root, kind, **list_file), 'train')
    names = [fn.removeprefix(f'{root}/') for fn in dataset.data_source.fns]
    assert names == ['a cat/3.webp', 'b dog/1.PNG', 'b dog/deep/2.jpeg', 'c linked/5.bmp']
    assert list(dataset.targets) == [0, 1, 1, 2] and dataset[3]['gt_label'] == 2
    assert sorted(tmp_path.rglob('*')) == before
    from torchvision.datasets import ImageFolder
    (root / '.cache/4.png').unlink()
    (root / '.cache').rmdir()
    assert sorted(ImageFolder(root).class_to_idx.items(), key=lambda x: x[1]) == [
        ('a cat', 0), ('b dog', 1), ('c linked', 2)]


def test_validation_has_the_classes_of_the_training(tmp_path):
    make_images(tmp_path, 'train/a/1.png', 'train/b/1.png', 'train/c/1.png', 'val/a/1.png',
                'val/c/1.png', 'other/d/1.png')
    train = classification(tmp_path / 'train')
    val = build_dataset(classification(tmp_path / 'val'), 'val', train)
    assert list(val.targets) == [0, 2]
    with pytest.raises(DatasetError, match="folder 'd', which is no class of the training"):
        build_dataset(classification(tmp_path / 'other'), 'val', train)
    (tmp_path / 'list.txt').write_text('a/1.png 5\n')
    train['data_source']['list_file'] = str(tmp_path / 'list.txt')
    with pytest.raises(DatasetError, match='Write a list for both'):
        build_dataset(classification(tmp_path / 'val'), 'val', train)


def test_folders_that_tell_no_classes(tmp_path):
    make_images(tmp_path, 'train/a/1.png', 'flat/1.png')
    (tmp_path / 'train/b').mkdir()
    with pytest.raises(DatasetError, match='train/b holds no image'):
        build_dataset(classification(tmp_path / 'train'), 'train')
    with pytest.raises(DatasetError, match='no folders of images'):
        build_dataset(classification(tmp_path / 'flat'), 'train')


def test_images_without_labels_come_from_any_folder(tmp_path):
    make_images(tmp_path, '1.png', 'deep/er/2.png')
    dataset = build_dataset(dict(
        type='MultiViewDataset', num_views=[2], pipelines=[PIPELINE],
        data_source=dict(type='ImageList', root=str(tmp_path), return_label=False)), 'train')
    assert len(dataset.data_source.fns) == 2 and len(dataset[0]['img']) == 2


def test_a_list_without_labels_cannot_train_a_classifier(tmp_path):
    make_images(tmp_path, '1.png')
    (tmp_path / 'list.txt').write_text('1.png\n')
    with pytest.raises(DatasetError, match='has no labels'):
        build_dataset(classification(tmp_path, list_file=str(tmp_path / 'list.txt')), 'train')


@pytest.mark.parametrize('classes, topk', [(2, (1, )), (3, (1, )), (5, (1, 5)), (10, (1, 5))])
def test_there_are_no_more_best_classes_than_classes(classes, topk):
    options = dict(topk=(1, 5), metric='accuracy')
    assert existing_topk(options, torch.zeros(4, classes)) == dict(topk=topk, metric='accuracy')
