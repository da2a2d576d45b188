_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './_base_/digit_scenes.py']

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=96, num_outs=3),
    bbox_head=dict(
        num_classes=10,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        # Digits are 24 to 72 pixels high, and mostly 1.2 to 2 times as high as wide.
        anchor_generator=dict(
            octave_base_scale=2, ratios=[1.3, 1.9], strides=[8, 16, 32])))
