# RSB-A3: trains at 160 pixels, with weaker augmentation and no erasing, and tests at 224.
_base_ = './swin_sz224_8xbs128.py'

rand_augment = dict(
    type='RandAugment',
    policies={{_base_.rand_increasing_policies}},
    num_policies=2,
    total_level=10,
    magnitude_level=6,
    magnitude_std=0.5,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
random_erasing = None
train_pipeline = [
    dict(type='RandomResizedCrop', size=160, interpolation=3),
    dict(type='RandomHorizontalFlip'),
    rand_augment,
]
test_pipeline = [
    dict(type='Resize', size=236, interpolation=3),  # a crop of 0.95
    dict(type='CenterCrop', size=224),
    dict(type='ToTensor'),
    {{_base_.normalize}},
]
data = dict(
    imgs_per_gpu=256,
    workers_per_gpu=12,
    train=dict(pipeline=train_pipeline),
    val=dict(pipeline=test_pipeline))
