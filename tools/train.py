"""Train a config: python tools/train.py CONFIG [--work-dir DIR] [--resume] ..."""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('train')
