_base_ = './retinanet_litv2-s_fpn_1x_coco.py'
model = dict(backbone=dict(window_size=(0, 0, 4, 1)))
