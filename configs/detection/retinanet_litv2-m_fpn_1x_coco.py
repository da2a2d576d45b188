_base_ = './retinanet_litv2-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        arch='medium',
        init_cfg=dict(
            checkpoint='https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_m.pth')))
