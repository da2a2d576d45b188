"""``python -m mmlit``: the command ``mmlit`` where its folder is not on the PATH."""
from mmlit.commands import main

if __name__ == '__main__':
    main()
