"""The toolkit of a config, and its registries: mmdet, mmseg, mmpretrain, or mmengine itself."""
import importlib
import importlib.util
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from mmlit.errors import ConfigError
from mmlit.generations import TOOLKITS


def import_scope(cfg: Config) -> str:
    """Find the scope of a config and import its models, which registers them.

    Where a config has none (``default_scope = None``, mmengine's own default), it is the prefix of
    a type's name, else the toolkit of a class, else the first toolkit here that has the model.

    Raises:
        ConfigError: If the scope's models cannot be imported.
    """
    scope = cfg.get('default_scope') or _scope_of_types(cfg) or _scope_that_knows(
        cfg.get('model') or {})
    if scope != 'mmengine':
        try:
            importlib.import_module(f'{scope}.models')
        except ImportError as e:
            raise ConfigError(f'default_scope={scope!r} of {cfg.filename}: cannot import '
                              f'{scope}.models: {e}') from e
    return scope


def find_class(registry: Registry, kind, scope: str):
    """The class behind a config's ``type``, or None if the registries do not know it.

    Args:
        registry: One of mmengine's own, the root of the toolkits'.
        kind: A name, with a scope or without, or a class already.
        scope: Scope of names without one.
    """
    if not isinstance(kind, str):
        return kind
    prefix, name = Registry.split_scope_key(kind)
    scope = prefix or scope
    if scope in TOOLKITS and importlib.util.find_spec(scope):
        importlib.import_module(f'{scope}.registry')
    here = registry.children.get(scope, registry)
    while here is not None:
        here.import_from_location()
        if name in here.module_dict:
            return here.module_dict[name]
        here = here.parent
    return None


def _scope_of_types(cfg: Config) -> str | None:
    for key in ('model', 'train_dataloader', 'test_dataloader'):
        for kind in _types(cfg.get(key)):
            scope = (kind if isinstance(kind, str) else kind.__module__).split('.')[0]
            if scope in TOOLKITS:
                return scope
    return None


def _types(config) -> Iterator:
    """Every type in a config, the outer before the inner ones."""
    if isinstance(config, dict):
        kind = config.get('type')
        if isinstance(kind, str) or hasattr(kind, '__module__'):
            yield kind
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _types(value)


def _scope_that_knows(model: dict) -> str:
    for scope in TOOLKITS:
        if importlib.util.find_spec(scope):
            importlib.import_module(f'{scope}.models')
            if find_class(MODELS, model.get('type', ''), scope):
                return scope
    return 'mmengine'
