"""Outputs that cannot be written are found before the work, and results are never lost."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlit.errors import OutputError
from mmlit.outputs import check_writable, line, plain, write_json

ROOT = Path(__file__).parents[1]


class TestPlaces:

    def test_a_new_file_in_new_folders_may_be_written_and_nothing_is_made(self, tmp_path):
        check_writable(tmp_path / 'a/b/c.json', suffix='.json')
        assert not list(tmp_path.iterdir())

    def test_a_file_that_is_there_needs_overwrite(self, tmp_path):
        path = tmp_path / 'result.json'
        path.write_text('mine')
        with pytest.raises(OutputError, match='--overwrite'):
            check_writable(path)
        check_writable(path, overwrite=True)
        (tmp_path / 'link.json').symlink_to(tmp_path / 'nowhere')
        with pytest.raises(OutputError, match='--overwrite'):
            check_writable(tmp_path / 'link.json')

    @pytest.mark.parametrize('name, message', [
        ('file/result.json', 'is not a folder'),
        ('file/below/result.json', 'is not a folder'),
        ('folder.json', 'it is a folder'),
        ('x' * 300 + '.json', 'longer than 255 bytes'),
        ('new/' + 'x' * 300 + '/result.json', 'longer than 255 bytes'),
        ('é' * 150 + '.json', 'longer than 255 bytes'),
        ('/'.join(['x' * 200] * 30) + '/result.json', 'the path is too long'),
        ('result.pkl', 'must end with .json'),
    ])
    @pytest.mark.parametrize('overwrite', [False, True])
    def test_a_place_where_nothing_can_be_written_is_refused(self, name, message, overwrite,
                                                             tmp_path):
        (tmp_path / 'file').write_text('')
        (tmp_path / 'folder.json').mkdir()
        with pytest.raises(OutputError, match=message):
            check_writable(tmp_path / name, overwrite, '.json')

    @pytest.mark.skipif(not Path('/proc/version').exists(), reason='needs /proc')
    def test_a_file_system_without_writing_is_refused(self):
        with pytest.raises(OutputError, match='cannot write /proc/'):
            check_writable('/proc/result.json')

    @pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
    def test_a_read_only_folder_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match='does not let this user write'):
            check_writable(tmp_path / 'result.json')

    def test_a_full_disk_is_refused(self, tmp_path, monkeypatch):
        full = os.statvfs_result((4096, 4096, 1000, 0, 0, 10, 0, 0, 0, 255))
        monkeypatch.setattr(os, 'statvfs', lambda path: full)
        with pytest.raises(OutputError, match='no space is left'):
            check_writable(tmp_path / 'result.json')


RESULTS = {
    'float': 0.25, 'whole': 3, 'numpy': np.float32(0.5), 'array': np.arange(3),
    'tensor': torch.tensor([[1., float('nan')]]), 'number': torch.tensor(2), 'none': None,
    'list': [np.float64(1), torch.tensor(float('inf'))], 'text': 'é',
    'nested': {'a': {1: (0.5, True)}}, 'nan': float('nan'), 'bits': {3}, 'half': torch.ones(
        1, dtype=torch.bfloat16, requires_grad=True), 'path': Path('x'), 'bool': np.bool_(True),
}


def test_results_of_every_type_become_json(tmp_path):
    write_json(tmp_path / 'new/result.json', RESULTS)
    assert json.loads((tmp_path / 'new/result.json').read_text(encoding='utf-8')) == {
        'float': 0.25, 'whole': 3, 'numpy': 0.5, 'array': [0, 1, 2], 'tensor': [[1, None]],
        'number': 2, 'none': None, 'list': [1, None], 'text': 'é',
        'nested': {'a': {'1': [0.5, True]}}, 'nan': None, 'bits': [3], 'half': [1], 'path': 'x',
        'bool': True}
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['result.json']


def test_results_of_every_type_become_a_line():
    lines = [line(name, value) for name, value in RESULTS.items()]
    assert {'float: 0.25', 'whole: 3', 'numpy: 0.5', 'array: [0, 1, 2]', 'nan: nan',
            'text: é', 'tensor: [[1.0, null]]', 'number: 2'} <= set(lines)
    assert plain(torch.tensor(7)) == 7


SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from mmlit.checkpoints import written_whole, save_weights
from mmlit.command_line import clean_errors
from mmlit.outputs import write_json
kind, path = sys.argv[1:]
def act():
    if kind == 'stop':
        raise KeyboardInterrupt
    if kind == 'torch':
        save_weights(dict(state_dict=dict(a=torch.zeros(10**5))), Path(path))
    else:
        write_json(path, ['x' * 10**6])
if kind != 'stop' and not path.startswith('/proc') and 'file/' not in path:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
with clean_errors('stopped: say --resume'):
    act()
"""


@pytest.mark.parametrize('kind, path, status, message', [
    ('torch', 'x.pth', 1, 'error: '), ('torch', 'x.safetensors', 1, 'error: '),
    ('json', 'x.json', 1, 'File too large'), ('json', '/proc/x.json', 1, '/proc'),
    ('json', 'file/x.json', 1, 'error: cannot read or write'), ('stop', 'x', 130, '--resume')])
def test_what_goes_wrong_while_writing_is_one_paragraph(kind, path, status, message, tmp_path):
    """A limit on the size of files fails as a full disk does, in the middle of a file."""
    (tmp_path / 'file').write_text('')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', SCRIPT, kind,
                           path if path.startswith('/') else str(tmp_path / path)],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == status, done.stderr
    assert message in done.stderr and 'Traceback' not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['file']  # nothing half-written
