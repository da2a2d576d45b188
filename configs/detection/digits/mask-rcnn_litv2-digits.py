_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './_base_/digit_scenes.py']

# A third of the boxes and channels that COCO needs.
model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=96, start_level=1, num_outs=3),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        # Digits are 24 to 72 pixels high, and mostly 1.2 to 2 times as high as wide.
        anchor_generator=dict(scales=[2, 2.83], ratios=[1.3, 1.9], strides=[8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2),
            out_channels=96, featmap_strides=[8, 16, 32], finest_scale=40),
        bbox_head=dict(in_channels=96, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2),
            out_channels=96, featmap_strides=[8, 16, 32], finest_scale=40),
        mask_head=dict(num_convs=2, in_channels=96, conv_out_channels=64, num_classes=10)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=400, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=30)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=True),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    _base_.test_pipeline[3],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# A step takes twice as long as RetinaNet's, and brings more.
epochs = 5
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs)
