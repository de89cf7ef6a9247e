"""Averaged weights (EMA): what a training with them evaluates and saves."""
from mmengine.hooks import EMAHook as Base

from ..registry import HOOKS


@HOOKS.register_module()
class EMAHook(Base):
    """mmengine's moving average of the weights, for runs that are stopped, resumed and tested.

    A validation looks at the averaged weights, and a checkpoint holds them as its ``state_dict``,
    so that a test of the file measures the same. The trained weights are beside them
    (``ema_state_dict``), from which a run is resumed. Loads strictly.
    """

    def __init__(self, **kwargs):
        super().__init__(strict_load=True, **kwargs)
        self.is_swapped = False  # the model has the averaged weights, the average the trained ones

    def _swap_ema_parameters(self):
        super()._swap_ema_parameters()
        self.is_swapped = not self.is_swapped

    def before_save_checkpoint(self, runner, checkpoint):
        if self.is_swapped:  # stopped inside of a validation: the file gets both as they are
            checkpoint['ema_state_dict'] = self.ema_model.state_dict()
        else:
            super().before_save_checkpoint(runner, checkpoint)

    def after_load_checkpoint(self, runner, checkpoint):
        # A test fills the model with a file's averaged weights before the average is made of it.
        if hasattr(self, 'ema_model'):
            super().after_load_checkpoint(runner, checkpoint)
