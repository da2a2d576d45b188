_base_ = [
    '../../_base_/models/lit_v2/lit_v2_small.py',
    '../../_base_/datasets/imagenet/rsb_a3_sz160_8xbs256.py',
    '../../_base_/schedules/lamb_8xb256_cos_fp16_ep100.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    alpha=[0.1, 1.0],
    # Binary cross-entropy on mixed one-hot labels.
    head=dict(
        loss=dict(
            _delete_=True,
            type='CrossEntropyLoss',
            use_soft=False,
            use_sigmoid=True,
            loss_weight=1.0),
        multi_label=True,
        two_hot=False))
