"""Time LITv2's forms and timm's models: python tools/benchmark.py [MODELS...] [--batch 16] ..."""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('benchmark')
