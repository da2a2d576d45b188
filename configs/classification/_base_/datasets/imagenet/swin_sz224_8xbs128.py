# ImageNet-1k with the augmentation of DeiT and Swin.
# `_RAND_INCREASING_TRANSFORMS` of timm: a larger magnitude always changes more.
rand_increasing_policies = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    dict(type='Rotate', magnitude_key='angle', magnitude_range=(0, 30)),
    dict(type='Posterize', magnitude_key='bits', magnitude_range=(4, 0)),
    dict(type='Solarize', magnitude_key='thr', magnitude_range=(256, 0)),
    dict(type='SolarizeAdd', magnitude_key='magnitude', magnitude_range=(0, 110)),
    dict(type='ColorTransform', magnitude_key='magnitude', magnitude_range=(0, 0.9)),
    dict(type='Contrast', magnitude_key='magnitude', magnitude_range=(0, 0.9)),
    dict(type='Brightness', magnitude_key='magnitude', magnitude_range=(0, 0.9)),
    dict(type='Sharpness', magnitude_key='magnitude', magnitude_range=(0, 0.9)),
    dict(
        type='Shear', magnitude_key='magnitude', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_key='magnitude', magnitude_range=(0, 0.3), direction='vertical'),
    dict(
        type='Translate',
        magnitude_key='magnitude',
        magnitude_range=(0, 0.45),
        direction='horizontal'),
    dict(
        type='Translate',
        magnitude_key='magnitude',
        magnitude_range=(0, 0.45),
        direction='vertical'),
]
rand_augment = dict(
    type='RandAugment',
    policies=rand_increasing_policies,
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
random_erasing = dict(
    type='RandomErasing_numpy',  # works on pixels, so before ToTensor and Normalize
    erase_prob=0.25,
    mode='rand',
    min_area_ratio=0.02,
    max_area_ratio=1 / 3,
    fill_color=[104, 116, 124],
    fill_std=[58, 57, 58])
img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
normalize = dict(type='Normalize', **img_norm_cfg)

# The prefetcher makes tensors of the training images and normalises them, on the GPU; the trainer
# appends ToTensor and Normalize to the pipeline where there is none.
prefetch = True
train_pipeline = [
    dict(type='RandomResizedCrop', size=224, interpolation=3),  # 3 is bicubic
    dict(type='RandomHorizontalFlip'),
    rand_augment,
    random_erasing,
]
test_pipeline = [
    dict(type='Resize', size=256, interpolation=3),
    dict(type='CenterCrop', size=224),
    dict(type='ToTensor'),
    normalize,
]

data = dict(
    imgs_per_gpu=128,
    workers_per_gpu=10,
    train=dict(
        type='ClassificationDataset',
        data_source=dict(
            type='ImageNet',
            list_file='data/meta/ImageNet/train_labeled_full.txt',
            root='data/ImageNet/train'),
        pipeline=train_pipeline,
        prefetch=prefetch),
    val=dict(
        type='ClassificationDataset',
        data_source=dict(
            type='ImageNet',
            list_file='data/meta/ImageNet/val_labeled.txt',
            root='data/ImageNet/val'),
        pipeline=test_pipeline,
        prefetch=False))
