# LITv2-S in openmixup's variant: with layer scale, which the official release does not have.
model = dict(
    type='MixUpClassification',
    alpha=[0.8, 1.0],
    mix_mode=['mixup', 'cutmix'],
    backbone=dict(
        type='LITv2',
        arch='small',
        drop_path_rate=0.2,
        alpha=0.9,
        window_size=[0, 0, 2, 1],
        attention_types=[None, None, 'HiLo', 'HiLo'],
        init_values=1e-6),
    head=dict(
        type='ClsMixupHead',
        loss=dict(
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            num_classes=1000,
            mode='original',
            loss_weight=1.0),
        with_avg_pool=True,
        in_channels=768,
        num_classes=1000,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)),
    # Without an init_cfg of its own, the model would skip those of the backbone and the head.
    init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.))
