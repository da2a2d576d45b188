_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './_base_/adamw_1x.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='LITv2',
        arch='small',
        window_size=(0, 0, 2, 1),
        out_indices=(0, 1, 2, 3),
        norm_indices=(1, 2, 3),  # the published models have no norm on the first output
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_s.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
