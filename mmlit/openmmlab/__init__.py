"""Training and testing of mmengine configs (mmdet 3, mmseg 1, mmpretrain 1)."""
from mmlit.generations import use_mmcv2

use_mmcv2()
