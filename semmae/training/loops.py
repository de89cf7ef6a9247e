"""The loop of a training that was stopped after any iteration and ends bit-identical.

Random draws depend only on numbers in the checkpoint (`datasets.seeded`, `progress.StepSeedHook`).
`resume` lists everything that a resumed run restores.
"""
from mmengine.runner import EpochBasedTrainLoop

from ..registry import LOOPS


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which can also start inside an epoch without reading it again.

    Needs a sampler that skips (`semmae.SeededSampler`). Loops over iterations need no class of
    ours: mmengine's `IterBasedTrainLoop` skips by itself, if the sampler can.
    """

    def run_epoch(self):
        done = self._iter - self._epoch * len(self.dataloader)
        if done:
            self.skip(done)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, batch in enumerate(self.dataloader, done):
            self.run_iter(idx, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def skip(self, done):
        """Leave out the first ``done`` batches of the epoch, at most all of them."""
        length, sampler = len(self.dataloader), self.dataloader.sampler
        if not 0 <= done <= length:
            raise ValueError(
                f'the checkpoint was saved after {self._iter} iterations, in epoch {self._epoch}, '
                f'which now begins after {self._epoch * length} and has {length}: the number of '
                'images or the batch size has changed. Restore it, or start in another --work-dir')
        if not hasattr(sampler, 'skip'):
            raise ValueError(
                f'the checkpoint was saved inside epoch {self._epoch}, where '
                f'{type(sampler).__name__} cannot start; expected train_dataloader.sampler='
                "dict(type='semmae.SeededSampler'), or a checkpoint of the end of an epoch")
        sampler.skip(done * self.dataloader.batch_size)
        self.runner.logger.info(f'continuing after {done} of {length} iterations of this epoch')
