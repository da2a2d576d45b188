# Makes openmixup importable where its optional parts are missing, and registers LITv2 there.
custom_imports = dict(imports=['mmlit.openmixup'], allow_failed_imports=False)

# The trainer re-seeds the workers at every epoch, so that a resumed run equals an uninterrupted
# one; workers that outlive the epoch would keep their old state.
persistent_workers = False

evaluation = dict(
    initial=False,
    interval=1,
    save_best='head0_top1',
    imgs_per_gpu=128,
    workers_per_gpu=4,
    eval_param=dict(topk=(1, 5)))
checkpoint_config = dict(interval=1, max_keep_ckpts=1)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
log_level = 'INFO'

dist_params = dict(backend='nccl')
cudnn_benchmark = True
find_unused_parameters = False
mp_start_method = 'fork'
opencv_num_threads = 0  # its threads would compete with the workers

load_from = None
resume_from = None
workflow = [('train', 1)]
