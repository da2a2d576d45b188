"""Write a LITv2 for torch alone: python tools/export_torch.py MODEL OUT.pt2 --to program|package"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('export')
