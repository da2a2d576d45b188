"""Test a checkpoint: python tools/test.py CONFIG CHECKPOINT"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('test')
