"""Run a script of openmixup's own on a current machine, with what it needs supplied.

python -m mmlit.openmixup PATH/TO/openmixup/tools/train.py CONFIG ...

openmixup 0.2.9 cannot be imported with torch >= 2.5 or without compiled ops, and its scripts import
it before they read a config's ``custom_imports``. Its trainer itself needs a GPU; mmlit's does not.
"""
import runpy
import sys

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name='__main__')
