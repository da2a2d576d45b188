# The recipe of ../lit_v2_small_8xb128_cos_fp16_ep300.py for mmpretrain, whose Swin has much of it:
# crops and RandAugment, mixup and CutMix, label smoothing, AdamW, no decay of norms, biases and
# other vectors.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmlit'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True, type='LITv2', arch='small', drop_path_rate=0.2, init_values=1e-6))

train_pipeline = _base_.train_pipeline
train_pipeline[4].update(fill_color=[104, 116, 124], fill_std=[58, 57, 58])  # RandomErasing
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)

optim_wrapper = dict(
    type='AmpOptimWrapper',
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(conv_offset=dict(lr_mult=0.01, decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,  # of every group: the offsets, at 1e-3 x 0.01, stay there
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True),
]
