"""How ``--resume`` continues a training, step by step:

1. training/resume.py `set_start`: asks checkpoints/folder.py `latest` for the newest complete
   checkpoint of the work directory, and writes its path into ``cfg.load_from``.
2. mmengine `Runner.train` calls `Runner.resume` with that path. Its table of loaders has
   mmengine_patches.py `load_from_checked_file`, which calls checkpoints/read.py `read_checkpoint`.
3. ``after_load_checkpoint`` of the hooks: config/data_check.py `DataCheckHook` (damaged images),
   recording/record.py `ResultRecorder` (refuses another config or misfitting tensors),
   training/rank_state.py `RankStateHook` (state that differs between processes),
   training/part_health.py `PartHealthHook` (sums of the epoch), training/ema.py `EMAHook`.
4. mmengine loads weights, epoch, iteration, log, optimiser and schedules.
5. ``before_train`` of training/rank_state.py `RankStateHook` (all processes start after the same
   iteration) and training/checkpointing.py `CheckpointHook` (which files it removes later).
6. training/loops.py `ResumableEpochLoop.run_epoch` starts inside the epoch: datasets/seeded.py
   `SeededSampler.skip` leaves out the images that were read.
7. training/progress.py `ProgressHook` and `StepSeedHook` compute their values from the iteration.
"""
import sys

from ..checkpoints.folder import checkpoints, is_first_process, latest
from .trackers import forget


def set_start(cfg, resume, launcher='none'):
    """Set where the training of ``cfg`` starts: new, or from its newest complete checkpoint.

    Raises ValueError if a new training would mix its files with the checkpoints of another.
    """
    cfg.resume = False
    if not resume:
        if found := checkpoints(cfg.work_dir):
            raise ValueError(f'{cfg.work_dir} has checkpoints of a run ({found[-1].name}), '
                             'expected none. Continue that run with --resume, or give another '
                             '--work-dir')
    elif newest := latest(cfg.work_dir, launcher):
        # Not mmengine's last_checkpoint, whose absolute path is wrong after a folder was moved.
        cfg.update(resume=True, load_from=str(newest))
    elif is_first_process(launcher):
        print(f'--resume: no checkpoint in {cfg.work_dir}, starting anew', file=sys.stderr)
    if not cfg.resume and is_first_process(launcher):
        forget(cfg.work_dir)
