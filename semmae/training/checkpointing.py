"""Writes and removes checkpoints: an old one is removed only after the new one is complete."""
from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as Base

from ..checkpoints.write import remove
from ..models.layers import unwrapped
from ..registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(Base):
    """mmengine's hook, but removes an old checkpoint only after the new one is complete.

    The same holds for ``save_best``. For a moment there is one more file than ``max_keep_ckpts``.
    All processes call ``before_save_checkpoint``, so that hooks may gather there. Overrides methods
    with a leading underscore, because mmengine has no public ones for a single save.
    """

    saved_iter = None  # iterations in the last checkpoint of this process
    keep_ckpt_ids: deque  # attributes of mmengine's hook
    best_ckpt_path_dict: dict

    def before_train(self, runner):
        # A checkpoint has absolute paths of the best ones; the folder may have moved since.
        info = runner.message_hub.runtime_info
        for key in [k for k in info if k.startswith('best_ckpt') and info[k]]:
            runner.message_hub.update_info(key, str(Path(runner.work_dir) / Path(info[key]).name))
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        # Removes digests whose checkpoint a killed run has removed.
        for digest in Path(self.out_dir).glob('*.pth.sha256') if is_main_process() else ():
            if not digest.with_suffix('').is_file():
                digest.unlink(missing_ok=True)
        if runner.iter:
            self.saved_iter = runner.iter

    def _save_checkpoint_with_step(self, runner, step, meta):
        meta = dict(meta)
        # One more than the maximum, so that mmengine removes nothing. The new file lists the old
        # one: if the run is killed before the removal below, the resumed run removes it.
        if self.max_keep_ckpts > 0:
            self.max_keep_ckpts += 1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            if self.max_keep_ckpts > 0:
                self.max_keep_ckpts -= 1
        self.join_hooks(runner)
        self.saved_iter = meta['iter']
        while self.max_keep_ckpts > 0 and len(self.keep_ckpt_ids) > self.max_keep_ckpts:
            self.remove(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
        if self.max_keep_ckpts > 0:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.remove(runner.message_hub.runtime_info.pop('interim_ckpt', None))

    def save_here(self, runner, epoch, iteration):
        """Save between two regular checkpoints, unless these weights are saved already.

        epoch, iteration: how many are complete. The next regular checkpoint removes this one.
        """
        if self.saved_iter == iteration:
            return
        meta = dict(epoch=epoch, iter=iteration)
        if not self.by_epoch:
            return self._save_checkpoint_with_step(runner, iteration, meta)
        name = f'iter_{iteration}.pth'
        before = runner.message_hub.runtime_info.get('interim_ckpt')
        runner.message_hub.update_info('interim_ckpt', name)
        runner.save_checkpoint(self.out_dir, name, save_optimizer=self.save_optimizer,
                               save_param_scheduler=self.save_param_scheduler, meta=meta)
        self.join_hooks(runner)
        self.saved_iter = iteration
        if before != name:
            self.remove(before)

    def join_hooks(self, runner):
        """Call the hooks that `Runner.save_checkpoint` calls, on all processes but the first."""
        if is_main_process():
            return
        checkpoint = dict(meta={}, state_dict=unwrapped(runner.model).state_dict())
        if self.save_optimizer:
            checkpoint['optimizer'] = {}
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)

    def _save_best_checkpoint(self, runner, metrics):
        if not self.save_best:
            return
        before = self.best_of()
        # mmengine would remove these before it writes.
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(self.best_ckpt_path_dict)
        super()._save_best_checkpoint(runner, metrics)
        for key, path in self.best_of().items():
            if path is None and before[key]:  # no better one
                if len(self.key_indicators) == 1:
                    self.best_ckpt_path = before[key]
                else:
                    self.best_ckpt_path_dict[key] = before[key]
            elif path and before[key] not in (None, path):
                self.remove(Path(before[key]).name)

    def best_of(self):
        """{metric: path or None} of the best checkpoints."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return {key: self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def remove(self, name):
        """Remove a checkpoint of the folder; does nothing for None."""
        if name and is_main_process():
            remove(Path(self.out_dir) / name)
