"""Run a script of openmixup, mmdet, mmseg or mmpretrain with what this machine lacks supplied.

python -m mmlit.run PATH/TO/SCRIPT ARGUMENTS...

Their own scripts import the toolkit, and with it mmcv's compiled ops, before they read a config and
its ``custom_imports``. In Python, ``import mmlit`` before the toolkit does the same.
"""
import runpy
import sys
from pathlib import Path

import mmlit  # noqa: F401, it is what this is for

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        sys.exit(__doc__)
    sys.argv.pop(0)
    if not Path(sys.argv[0]).is_file():
        sys.exit(f'error: there is no script {sys.argv[0]}')
    # As Python does for a script of its own, which may import its neighbours.
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name='__main__')
