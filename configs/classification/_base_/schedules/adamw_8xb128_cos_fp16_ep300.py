optimizer = dict(
    type='AdamW',
    lr=1e-3,  # for a batch of 1024: 8 GPUs x 128
    weight_decay=0.05,
    eps=1e-8,
    betas=(0.9, 0.999),
    # Regular expressions, searched for in the names of parameters. openmixup's own configs spell
    # the multiple `lr_mul`, which its optimizer constructor ignores: there, offsets learn at the
    # full rate.
    paramwise_options=dict(
        norm=dict(weight_decay=0.),
        bias=dict(weight_decay=0.),
        gamma=dict(weight_decay=0.),
        offset=dict(weight_decay=0., lr_mult=0.01)))
optimizer_config = dict(grad_clip=dict(max_norm=5.0))

use_fp16 = True
fp16 = dict(type='mmcv', loss_scale='dynamic')

lr_config = dict(
    policy='CosineAnnealing',
    by_epoch=False,
    min_lr=1e-5,  # of every group: the offsets, at 1e-3 x 0.01, stay there after the warm-up
    warmup='linear',
    warmup_by_epoch=True,
    warmup_iters=20,
    warmup_ratio=1e-6)
runner = dict(type='EpochBasedRunner', max_epochs=300)
