"""What `import mmlit` supplies, and that it supplies nothing where nothing is missing.

Each case in a process of its own: operators, once declared, stay.
"""
import importlib.util
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE

from mmlit import compat

ROOT = Path(__file__).parents[1]
DECLARED = 'print(hasattr(torch.ops.torchvision, "nms"), hasattr(torch.ops.torchvision, "qnms"))'


def run(code: str, first_on_path: Path = ROOT) -> str:
    code = f'import sys; sys.path.insert(0, {str(first_on_path)!r}); import torch; {code}'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(importlib.util.find_spec('torchvision') is None,
                    reason='torchvision is not installed')
@pytest.mark.parametrize('before', [
    '', 'import contextlib\nwith contextlib.suppress(RuntimeError): import torchvision\n'],
    ids=['imported later', 'tried earlier'])
def test_torchvision_imports(before):
    assert run(f'{before}\nimport mmlit; import torchvision.ops; '
               'from torchvision.transforms import ToTensor; '
               'print(ToTensor.__name__)') == 'ToTensor'


@pytest.fixture
def fake(tmp_path):
    """Makes a package torchvision whose library is a copy of `library`, or holds its bytes."""

    def make(library: Path | bytes | None) -> Path:
        (tmp_path / 'torchvision').mkdir()
        (tmp_path / 'torchvision/__init__.py').write_text('')
        if library is not None:
            content = library if isinstance(library, bytes) else library.read_bytes()
            (tmp_path / f'torchvision/_C{EXTENSION_SUFFIXES[0]}').write_bytes(content)
        return tmp_path

    return make


@pytest.mark.parametrize('library', [Path(torch._C.__file__), b'broken', None],
                         ids=['loads', 'is broken', 'is absent'])
def test_torchvision_is_left_alone_where_its_library(library, fake):
    assert run(f'import mmlit; {DECLARED}', fake(library)) == 'False False'


def test_torchvision_is_left_alone_where_torch_has_cuda():
    assert run('torch.backends.cuda.is_built = lambda: True; '
               f'import mmlit; {DECLARED}') == 'False False'


@pytest.mark.parametrize(('distribution', 'package', 'expected'), [
    ('mmsegmentation', 'mmseg', 'mmsegmentation'),
    ('onedl-mmsegmentation', 'mmseg', 'mmseg'),
    (None, None, 'mmsegmentation'),
])
def test_where_mmseg_is_looked_for(distribution, package, expected, monkeypatch):
    def version(name):
        if name != distribution:
            raise PackageNotFoundError(name)

    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.setattr(compat, 'version', version)
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name: object() if name == package else None)
    compat.name_mmsegs_distribution()
    assert MODULE2PACKAGE['mmseg'] == expected
