"""Seed, hooks and logs of every run. The scope is mmpretrain; segmentation configs set mmseg."""
default_scope = 'mmpretrain'

default_hooks = dict(
    patches=dict(type='semmae.PatchHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='semmae.CheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [
    dict(type='semmae.StepSeedHook'),
    dict(type='semmae.RankStateHook'),
    dict(type='semmae.FiniteHook'),
    dict(type='semmae.StopHook'),
    dict(type='semmae.DataCheckHook'),
    dict(type='semmae.ProgressHook', by_epoch=True),
    dict(type='semmae.ResultRecorder')]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(type='mmengine.Visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
compile = False  # True, or dict(_delete_=True, ...) with options of torch.compile
