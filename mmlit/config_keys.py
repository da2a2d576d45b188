"""Mis-spelt keys of configs and of --cfg-options, refused with the nearest known name.

mmengine and mmcv merge and ignore whatever they do not know: ``optim_wraper.optimizer.lr=1`` would
train with another learning rate than its user thinks.
"""
import difflib
import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmlit.config_types import arguments
from mmlit.errors import ConfigError

# Dictionaries whose keys are of the user's own choice.
FREE_FORM = {'custom_keys', 'metainfo', 'meta_info', 'backend_args', 'file_client_args',
             'custom_imports', 'data_prefix', 'dist_cfg', 'dist_params', 'paramwise_options',
             'addtional_scheduler', 'init_kwargs'}
ANYWHERE = {'type', '_delete_', '_scope_', '_base_'}
SOURCES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'openmixup', 'mmlit')


@dataclass(frozen=True)
class KnownKeys:
    """What a generation of toolkits knows.

    Attributes:
        top_level: Names that the toolkit or its tools read at the top level of a config.
        sections: Keys of dictionaries that no class takes, by their dotted path; those of a class
            that are taken out before it is built, too.
        find: The classes that a ``type`` may stand for.
        complete: Paths whose keys are all in ``sections``, whatever the class there takes.
    """
    top_level: frozenset[str]
    sections: dict[str, frozenset[str]]
    find: Callable[[object], list]
    complete: frozenset[str] = frozenset()

    def keys(self, path: str, config: dict) -> tuple[set[str], bool]:
        """Keys known for a dictionary of a config, and whether it may have others, too."""
        section = self.sections.get(path)
        names, others = {*ANYWHERE, *(section or ())}, section is None
        for kind in self.find(config.get('type')):
            taken, others_here = arguments(kind)
            names |= taken
            others = others_here and path not in self.complete
        return names, others


def merge_options(cfg, options: dict, known: KnownKeys) -> None:
    """Merge --cfg-options into a config.

    Raises:
        ConfigError: If an option sets what neither the config nor a toolkit knows, or does not fit
            into the config.
    """
    for keys in _leaves(options):
        _check_option(cfg, keys, known)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        raise ConfigError(f'--cfg-options do not fit the config {cfg.filename}: '
                          f'{" ".join(str(e).split())}') from None


def check_top_level(cfg, known: KnownKeys) -> None:
    """Check the names that a config assigns.

    A config may have variables of its own. One is refused if it is spelt nearly as a name that the
    toolkit reads, is no such name with a number behind it, and nothing in the config uses it.

    Raises:
        ConfigError: Names the known one.
    """
    for name in cfg.keys():  # noqa: SIM118, a Config iterates over its items
        near = _nearest(name, known.top_level)
        if name in known.top_level or near is None or name.rstrip('_0123456789') == near:
            continue
        if not re.search(rf'\b{name}\b(?!\s*(:\s*\w+\s*)?=[^=])', cfg.text):
            raise ConfigError(f'the config {cfg.filename} sets {name!r}, which nothing reads: did '
                              f'you mean {near!r}?')


def _leaves(options: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in options.items():
        keys = (*above, *str(key).split('.'))
        if isinstance(value, dict) and value:
            yield from _leaves(value, keys)
        else:
            yield keys


def _check_option(cfg, keys: tuple[str, ...], known: KnownKeys) -> None:
    here = dict(cfg.items())
    for depth, key in enumerate(keys):
        path, full = '.'.join(keys[:depth]), '.'.join(keys)
        if isinstance(here, list | tuple) and key.isdigit() and int(key) < len(here):
            here = here[int(key)]
            continue
        if not isinstance(here, dict) or FREE_FORM & set(keys[:depth]):
            return  # whether it fits, merging says
        if depth == 0:
            names, others = set(known.top_level), False
        else:
            names, others = known.keys(path, here)
        if key not in here and key not in names and not (others and _is_known(key)):
            near = _nearest(key, names | {str(name) for name in here})
            place, hint = 'neither the config nor a toolkit has', ''
            if path:
                place = f'{path} has no'
                hint = '; it has ' + ', '.join(
                    sorted({*map(str, here)} if others else names - ANYWHERE)[:30])
            if near:
                hint = f'; did you mean {".".join([*keys[:depth], near])}?'
            raise ConfigError(f'--cfg-options {full}: {place} {key!r}{hint}')
        here = here.get(key, {} if f'{path}.{key}'.strip('.') in known.sections else None)


def _nearest(name: str, names) -> str | None:
    """The name that differs by a slip of the hand, if any."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    return next((other for other in close if _distance(name, other) <= (
        2 if len(name) > 5 else 1)), None)


def _distance(a: str, b: str) -> int:
    """Letters to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@functools.cache
def _is_known(word: str) -> bool:
    """Whether the word stands anywhere in the code of a toolkit: many read keys of their own."""
    pattern = re.compile(rf'\b{re.escape(word)}\b')
    for package in SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for file in Path(folder).rglob('*.py'):
                if '.mim' not in file.parts and pattern.search(
                        file.read_text(encoding='utf-8', errors='replace')):
                    return True
    return False
