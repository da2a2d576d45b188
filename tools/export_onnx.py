"""Write a LITv2 as ONNX: python tools/export_onnx.py MODEL OUT.onnx --checkpoint FILE ..."""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('export', '--to', 'onnx')
