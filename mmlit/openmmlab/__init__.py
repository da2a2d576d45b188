"""Training and testing of mmengine configs (mmdet 3, mmseg 1, mmpretrain 1)."""
