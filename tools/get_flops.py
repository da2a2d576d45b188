"""Count parameters and multiply-adds: python tools/get_flops.py CONFIG --shape H W [--depth 3]"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('flops')
