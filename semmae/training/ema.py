"""Averaged weights (EMA) for runs that are stopped, resumed and tested."""
from mmengine.hooks import EMAHook as Base

from ..registry import HOOKS


@HOOKS.register_module()
class EMAHook(Base):
    """mmengine's moving average of the weights, also correct if a run stops in a validation.

    Validations and tests measure the averaged weights: they are the ``state_dict`` of a checkpoint.
    Runs resume from the trained weights, its ``ema_state_dict``. Loading is strict.
    """

    def __init__(self, **kwargs):
        super().__init__(strict_load=True, **kwargs)
        self.is_swapped = False  # the model has the averaged weights

    def before_val_epoch(self, runner):
        super().before_val_epoch(runner)
        self.is_swapped = True

    def after_val_epoch(self, runner, metrics=None):
        super().after_val_epoch(runner, metrics)
        self.is_swapped = False

    def before_save_checkpoint(self, runner, checkpoint):
        if self.is_swapped:  # stopped inside a validation: both are in place already
            checkpoint['ema_state_dict'] = self.ema_model.state_dict()
        else:
            super().before_save_checkpoint(runner, checkpoint)

    def after_load_checkpoint(self, runner, checkpoint):
        # `run.evaluate` loads a file before the average exists.
        if hasattr(self, 'ema_model'):
            super().after_load_checkpoint(runner, checkpoint)
