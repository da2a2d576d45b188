"""Which data set, and so which pipeline, a config tests with."""
from collections.abc import Iterator

from mmlit.errors import ConfigError


def dataset_of_tests(config, generation: str = 'mmengine') -> dict:
    """The settings of the data set that tests use, which may lie inside wrappers.

    Raises:
        ConfigError: If there is none, or there are several with pipelines that differ.
    """
    if generation == 'openmixup':
        found = config.data.get('test') or config.data.get('val')
        where = 'data.test or data.val'
    else:
        loader = config.get('test_dataloader') or config.get('val_dataloader') or {}
        found, where = loader.get('dataset'), 'test_dataloader.dataset'
    inner = [] if found is None else list(_inner_datasets(found))
    if not inner or any('pipeline' not in dataset for dataset in inner):
        raise ConfigError(f'the config {config.filename} has no {where} with a pipeline: it says '
                          'how images are prepared')
    if any(dataset['pipeline'] != inner[0]['pipeline'] for dataset in inner):
        raise ConfigError(f'the config {config.filename}: {where} joins data sets with pipelines '
                          'that differ: leave one of them')
    return inner[0]


def _inner_datasets(dataset: dict) -> Iterator[dict]:
    if 'dataset' in dataset:
        yield from _inner_datasets(dataset['dataset'])
    elif 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from _inner_datasets(part)
    else:
        yield dataset
