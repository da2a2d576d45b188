"""Make a checkpoint fit to be published: python tools/publish_model.py SRC DST"""
from mmlit.commands import tool

if __name__ == '__main__':
    tool('publish')
