# A small LITv2 on scikit-learn's handwritten digits (tools/dataset_converters/digits.py): the whole
# way through openmixup, in minutes on a CPU.
_base_ = ['../_base_/default_runtime.py']

model = dict(
    type='MixUpClassification',
    pretrained=None,
    alpha=[0.8, 1.0],
    mix_mode=['mixup', 'cutmix'],
    mix_args=dict(),
    backbone=dict(
        type='LITv2',
        arch=dict(
            embed_dims=[32, 64, 128, 256],
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 4, 8],
            mlp_ratio=[4, 4, 4, 4]),
        drop_path_rate=0.05,
        alpha=0.9,
        window_size=[0, 0, 2, 1],
        attention_types=[None, None, 'HiLo', 'HiLo']),
    head=dict(
        type='ClsMixupHead',
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10, mode='original',
                  loss_weight=1.0),
        with_avg_pool=True,
        in_channels=256,
        num_classes=10))

img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
to_tensor = [dict(type='ToTensor'), dict(type='Normalize', **img_norm_cfg)]
train_pipeline = [
    dict(type='Resize', size=(64, 64), interpolation=3),
    dict(type='RandomCrop', size=64, padding=6),  # no flip: a mirrored digit is none
    *to_tensor,
]
test_pipeline = [dict(type='Resize', size=(64, 64), interpolation=3), *to_tensor]
data_root = 'data/digits'
data = dict(
    imgs_per_gpu=64,
    workers_per_gpu=1,
    train=dict(
        type='ClassificationDataset',
        data_source=dict(
            type='ImageList', root=f'{data_root}/train', list_file=f'{data_root}/meta/train.txt'),
        pipeline=train_pipeline),
    val=dict(
        type='ClassificationDataset',
        data_source=dict(
            type='ImageList', root=f'{data_root}/val', list_file=f'{data_root}/meta/val.txt'),
        pipeline=test_pipeline))

optimizer = dict(
    type='AdamW',
    lr=1e-3,
    weight_decay=0.05,
    paramwise_options={
        'norm': dict(weight_decay=0.),
        'bias': dict(weight_decay=0.),
        'offset': dict(weight_decay=0., lr_mult=0.01),
    })
use_fp16 = False
optimizer_config = dict(grad_clip=dict(max_norm=5.0), update_interval=1)
lr_config = dict(
    policy='CosineAnnealing', by_epoch=False, min_lr=1e-5, warmup='linear', warmup_iters=1,
    warmup_by_epoch=True, warmup_ratio=1e-2)
evaluation = dict(
    initial=False, interval=1, imgs_per_gpu=64, workers_per_gpu=1, save_best='head0_top1',
    eval_param=dict(topk=(1, 5)))
checkpoint_config = dict(interval=1, max_keep_ckpts=1)
log_config = dict(interval=5, hooks=[dict(type='TextLoggerHook')])
runner = dict(type='EpochBasedRunner', max_epochs=12)
