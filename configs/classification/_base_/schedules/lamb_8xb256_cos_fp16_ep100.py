_base_ = './adamw_8xb128_cos_fp16_ep300.py'

optimizer = dict(
    _delete_=True,
    type='LAMB',
    lr=0.008,  # for a batch of 2048: 8 GPUs x 256
    weight_decay=0.02,
    paramwise_options=dict(
        norm=dict(weight_decay=0.),
        bias=dict(weight_decay=0.),
        gamma=dict(weight_decay=0.),
        offset=dict(lr_mult=0.1)))  # decayed, unlike in the 300-epoch recipe
lr_config = dict(min_lr=0., warmup_iters=5)
runner = dict(max_epochs=100)
