# The 1x schedule of mmdet (12 epochs, steps at 8 and 11, 500 iterations of warm-up, 8 GPUs x 2
# images) with the optimizer of the LITv2 paper and mixed precision.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']

custom_imports = dict(imports=['mmlit'], allow_failed_imports=False)

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.))
