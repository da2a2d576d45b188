"""Bring a checkpoint into another layout: python tools/convert_checkpoint.py SRC DST --to timm"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('convert')
