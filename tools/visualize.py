"""Draw what a model sees: python tools/visualize.py CONFIG CHECKPOINT IMAGES... --out DIR"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('visualize')
