_base_ = './mask-rcnn_litv2-m_fpn_1x_coco.py'
model = dict(backbone=dict(window_size=(0, 0, 4, 1)))
