_base_ = [
    '../../_base_/models/lit_v2/lit_v2_base.py',
    '../../_base_/datasets/imagenet/swin_sz384_8xbs128.py',
    '../../_base_/schedules/adamw_8xb128_cos_fp16_ep300.py',
    '../../_base_/default_runtime.py',
]

# mmlit's trainer takes the whole model, head included, from `load_from`. openmixup's own trainer,
# which does not know the layout, takes the backbone through `init_cfg`.
load_from = 'https://github.com/ziplab/LITv2/releases/download/v1.0/litv2_b.pth'
model = dict(
    backbone=dict(
        init_values=0.,  # the official model has no layer scale
        init_cfg=dict(type='Pretrained', checkpoint=load_from)))

optimizer = dict(lr=4e-5, weight_decay=1e-8)  # 2e-5 for every 512 images of a batch of 1024
lr_config = dict(min_lr=4e-7, warmup_iters=5, warmup_ratio=1e-3)  # warms up from 4e-8
runner = dict(max_epochs=30)
