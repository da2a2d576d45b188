_base_ = [
    '../../_base_/models/lit_v2/lit_v2_base.py',
    '../../_base_/datasets/imagenet/swin_sz224_8xbs128.py',
    '../../_base_/schedules/adamw_8xb128_cos_fp16_ep300.py',
    '../../_base_/default_runtime.py',
]
