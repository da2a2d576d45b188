# Semantic FPN on scenes of handwritten digits (tools/dataset_converters/digit_scenes.py), for a CPU.
_base_ = ['mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/default_runtime.py']

custom_imports = dict(imports=['mmlit'], allow_failed_imports=False)

model = dict(
    pretrained=None,
    # Padding is background: weighted cross entropy of mmseg cannot ignore a label.
    data_preprocessor=dict(size=(160, 224), seg_pad_val=10),
    # The classifier of `make demo`.
    backbone=dict(
        _delete_=True,
        type='LITv2',
        arch=dict(
            embed_dims=[32, 64, 128, 256],
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 4, 8],
            mlp_ratio=[4, 4, 4, 4]),
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.05,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/digits/epoch_12.pth')),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    # Ten digits, and the background as the eleventh output (see digit_scenes.py).
    decode_head=dict(
        in_channels=[64] * 4,
        channels=64,
        num_classes=11,
        # Nine pixels in ten are background: cross entropy alone finds no digit for long.
        loss_decode=[
            dict(type='CrossEntropyLoss', class_weight=[1.] * 10 + [0.45]),
            dict(type='DiceLoss', use_sigmoid=False, ignore_index=10),
        ]))

dataset = dict(
    type='BaseSegDataset',
    data_root='data/digit_scenes',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    metainfo=dict(
        classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'),
        palette=[[230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48],
                 [145, 30, 180], [70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212]]))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # No flip: a mirrored digit is none.
    dict(type='RandomResize', scale=(224, 160), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 224)),
    dict(type='RandomRotate', prob=0.5, degree=10., seg_pad_val=10),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='train', seg_map_path='seg_maps/train'),
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='val', seg_map_path='seg_maps/val'),
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0.,
        custom_keys={'conv_offset': dict(lr_mult=0.01, decay_mult=0.)}),
    clip_grad=dict(max_norm=5.0))
iterations = 2700
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=75),
    dict(type='CosineAnnealingLR', by_epoch=False, T_max=iterations, eta_min=1e-5),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=675)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=150, max_keep_ckpts=2))
