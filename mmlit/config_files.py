"""Config files, read without running them, and what is said of those that fail when run."""
import ast
import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.fileio import load

from mmlit.errors import ConfigError, MMLitError
from mmlit.generations import TOOLKITS
from mmlit.package_files import did_you_mean, find_config

# Top-level names that only one generation of OpenMMLab's configs has.
MMENGINE_NAMES = {'train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper',
                  'param_scheduler', 'default_hooks', 'val_evaluator', 'test_evaluator',
                  'data_preprocessor', 'default_scope'}
OPENMIXUP_NAMES = {'data', 'optimizer', 'lr_config', 'checkpoint_config', 'log_config',
                   'evaluation', 'img_norm_cfg'}


@dataclass
class ConfigFile:
    """What a config and its bases say of themselves, as far as it can be read.

    Attributes:
        names: Names assigned at top level.
        toolkits: Toolkits that are named: by a base (``mmdet::...``), by the scope, by an import.
        lazy: Whether it is one of mmengine's Python configs (``with read_base():``).
        needs_toolkit: False if the scope is mmengine's own.
        by_name: Files of bases that are named ``mmlit::...``.
    """
    names: set[str] = field(default_factory=set)
    toolkits: set[str] = field(default_factory=set)
    lazy: bool = False
    needs_toolkit: bool = True
    by_name: dict[str, Path] = field(default_factory=dict)

    @property
    def generation(self) -> str | None:
        """'openmixup', 'mmengine', or None if it looks like neither."""
        if self.lazy or self.toolkits or self.names & MMENGINE_NAMES:
            return 'mmengine'
        return 'openmixup' if self.names & (OPENMIXUP_NAMES | {'model'}) else None

    def add(self, other: 'ConfigFile') -> None:
        self.names |= other.names
        self.toolkits |= other.toolkits
        self.lazy |= other.lazy
        self.needs_toolkit &= other.needs_toolkit
        self.by_name |= other.by_name


def read_config(path: str | Path) -> ConfigFile:
    """Read what a config and its bases say, without running them.

    The other generation's bases may not even resolve here. Bases that are no constants, names or
    sums of them are passed over.

    Raises:
        ConfigError: If a file is missing, does not parse, is its own base, looks like neither
            generation, or is openmixup's and names a base as only mmengine can.
    """
    config = _read(Path(path), chain=())
    if config.generation is None:
        raise ConfigError(f'{path} is not a config: it has none of {sorted(OPENMIXUP_NAMES)} or '
                          f'{sorted(MMENGINE_NAMES)}')
    for name, found in config.by_name.items() if config.generation == 'openmixup' else ():
        raise ConfigError(f"{path}: openmixup's configs (mmcv 1.x) know bases by path alone: in "
                          f'place of {name} write {str(found)!r}')
    return config


@contextlib.contextmanager
def config_errors(path: str | Path):
    """Turn whatever a config raises when it is run into a ConfigError that says file and line.

    A config is a program: it may raise anything, or exit.
    """
    try:
        yield
    except MMLitError:
        raise
    except (Exception, SystemExit) as e:
        file, line = _origin(e)
        where = '' if line is None else f', line {line}'
        if file and Path(file).absolute() != Path(path).absolute():
            where = f': its base {file}{where}'
        what = f'it exits ({e})' if isinstance(e, SystemExit) else f'{type(e).__name__}: {e}'
        raise ConfigError(f'cannot load the config {path}{where}: {" ".join(what.split())}') from e


def _origin(error: BaseException) -> tuple[str | None, int | None]:
    """The config file that was being run when an error was raised, and its line.

    mmcv runs a copy of the file, under another name; the loader's frame knows the real one.
    """
    file = line = None
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if code.co_name in ('_file2dict', '_parse_lazy_import'):
            file, line = trace.tb_frame.f_locals.get('filename'), None
        elif code.co_name == '<module>' and file and line is None:
            line = trace.tb_lineno
        trace = trace.tb_next
    return file, line


def _read(path: Path, chain: tuple[Path, ...], origin: str = '') -> ConfigFile:
    path = Path(os.path.abspath(path.expanduser()))
    if path in chain:
        circle = ' -> '.join(map(str, [*chain[chain.index(path):], path]))
        raise ConfigError(f'{origin}: _base_ leads back to where it came from: {circle}')
    config, bases = _read_one(path, origin)
    for line, base in bases:
        if base.startswith('mmlit::'):
            origin = f'{path}, line {line}'
            try:
                found = find_config(base)
            except ConfigError as e:
                raise ConfigError(f'{origin}: {e}') from None
            config.by_name.setdefault(base, found)
            config.add(_read(found, (*chain, path), origin))
        elif '::' in base:
            config.toolkits.add(base.split('::')[0])
        else:
            config.add(_read(path.parent / base, (*chain, path), f'{path}, line {line}'))
    return config


def _read_one(path: Path, origin: str) -> tuple[ConfigFile, list[tuple[int, str]]]:
    """What one file says, and its bases with the lines that name them."""
    named_by = f' (a base of {origin})' if origin else ''
    try:
        text = path.read_text(encoding='utf-8')
        if path.suffix in ('.json', '.yaml', '.yml'):
            return _read_data(load(path), path)
        tree = ast.parse(_fill_templates(text, path), str(path))
    except (OSError, UnicodeDecodeError) as e:
        hint = did_you_mean(path) if isinstance(e, FileNotFoundError) else ''
        raise ConfigError(f'cannot read the config {path}{named_by}: {e}{hint}') from None
    except SyntaxError as e:
        raise ConfigError(f'the config {path}, line {e.lineno}{named_by}, is not Python: '
                          f'{e.msg}') from None
    except MMLitError:
        raise
    except Exception as e:  # each parser of data files has errors of its own
        raise ConfigError(f'the config {path}{named_by} cannot be parsed: '
                          f'{" ".join(str(e).split())}') from None
    return _read_tree(tree, path)


def _read_data(content, path: Path) -> tuple[ConfigFile, list[tuple[int, str]]]:
    if not isinstance(content, dict):
        raise ConfigError(f'the config {path} holds no settings by name at its top level')
    config = ConfigFile(set(content))
    _note_scope(config, content.get('default_scope'))
    bases = content.get('_base_') or []
    return config, [(1, b) for b in ([bases] if isinstance(bases, str) else bases)]


def _read_tree(tree: ast.Module, path: Path) -> tuple[ConfigFile, list[tuple[int, str]]]:
    config, values, bases = ConfigFile(), {'__file__': str(path)}, []
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {t.id for t in targets if isinstance(t, ast.Name)}
            config.names |= names
            value = _evaluate(node.value, values)
            values.update(dict.fromkeys(names, value))
            if '_base_' in names:
                found = [value] if isinstance(value, str) else value or []
                bases = [(node.lineno, base) for base in found if isinstance(base, str)]
            if 'default_scope' in names:
                _note_scope(config, value)
        elif isinstance(node, ast.With):
            config.lazy |= any('read_base' in ast.unparse(item) for item in node.items)
            config.toolkits |= {m for inner in node.body for m in _imports(inner)}
        else:
            config.toolkits |= _imports(node)
    return config, bases


def _note_scope(config: ConfigFile, scope) -> None:
    if scope in TOOLKITS:
        config.toolkits.add(scope)
    config.needs_toolkit = scope != 'mmengine'


def _imports(node: ast.stmt) -> set[str]:
    """The toolkits that a statement imports from."""
    modules = []
    if isinstance(node, ast.ImportFrom) and not node.level:
        modules = [node.module]
    elif isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    return {m.split('.')[0] for m in modules} & set(TOOLKITS)


def _evaluate(node: ast.expr, values: dict):
    """The value of constants, names, sums, f-strings and lists of these; None for all else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(n, values) for n in node.elts]
    if isinstance(node, ast.JoinedStr):
        parts = [_evaluate(n.value if isinstance(n, ast.FormattedValue) else n, values)
                 for n in node.values]
        return None if None in parts else ''.join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _evaluate(node.left, values), _evaluate(node.right, values)
        if isinstance(left, str | list) and type(left) is type(right):
            return left + right
    return None


def _fill_templates(text: str, path: Path) -> str:
    """mmengine's and mmcv's ``{{ fileDirname }}`` and its like, and ``{{ $NAME:default }}``."""
    known = dict(fileDirname=str(path.parent), fileBasename=path.name,
                 fileBasenameNoExtension=path.stem, fileExtname=path.suffix)
    for name, value in known.items():
        text = re.sub(r'\{\{\s*' + name + r'\s*\}\}', lambda _, v=value: v.replace('\\', '/'), text)
    return re.sub(r'\{\{\s*\$(\w+)\s*:([^}]*)\}\}',
                  lambda m: os.environ.get(m[1], m[2].strip()), text)
