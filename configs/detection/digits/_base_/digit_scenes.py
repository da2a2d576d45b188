# Scenes of handwritten digits (tools/dataset_converters/digit_scenes.py), for a CPU: 600 images of
# 160 x 224, batch 8.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(imports=['mmlit'], allow_failed_imports=False)

data_root = 'data/digit_scenes/'
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
annotations = dict(type='LoadAnnotations', with_bbox=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    annotations,
    # No flip: a mirrored digit is none.
    dict(type='RandomResize', scale=(224, 160), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(224, 160), allow_negative_crop=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 160), keep_ratio=True),
    annotations,
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=f'{data_root}annotations/val.json', metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0.,
        custom_keys={'conv_offset': dict(lr_mult=0.01, decay_mult=0.)}),
    clip_grad=dict(max_norm=5.0))
epochs = 8
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=75),
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=1, max_keep_ckpts=2))

# The classifier of `make demo`.
backbone = dict(
    type='LITv2',
    arch=dict(
        embed_dims=[32, 64, 128, 256],
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
        mlp_ratio=[4, 4, 4, 4]),
    out_indices=(0, 1, 2, 3),
    norm_indices=(1, 2, 3),  # the necks start at the second map
    drop_path_rate=0.05,
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/digits/epoch_12.pth'))
