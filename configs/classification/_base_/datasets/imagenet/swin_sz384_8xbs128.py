_base_ = './swin_sz224_8xbs128.py'

train_pipeline = [
    dict(type='RandomResizedCrop', size=384, interpolation=3),
    dict(type='RandomHorizontalFlip'),
    {{_base_.rand_augment}},
    {{_base_.random_erasing}},
]
test_pipeline = [
    # (h, w): the whole image, squeezed to a square. One number would be the shorter side.
    dict(type='Resize', size=(384, 384), interpolation=3),
    dict(type='ToTensor'),
    {{_base_.normalize}},
]
data = dict(train=dict(pipeline=train_pipeline), val=dict(pipeline=test_pipeline))
