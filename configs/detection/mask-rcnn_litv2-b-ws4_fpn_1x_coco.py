_base_ = './mask-rcnn_litv2-b_fpn_1x_coco.py'
model = dict(backbone=dict(window_size=(0, 0, 4, 1)))
