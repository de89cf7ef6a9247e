"""Stops a training before the step if its loss or a gradient is NaN or infinite."""
import torch
from mmengine.hooks import Hook

from ..models.layers import unwrapped
from ..registry import HOOKS


@HOOKS.register_module()
class FiniteHook(Hook):
    """FloatingPointError before the step of an iteration whose loss or gradient is NaN or infinite.

    The error names the terms of the loss, or the first parameter. Gradients that dynamic loss
    scaling (float16) skips are allowed. On a GPU, flags are read every ``interval`` iterations and
    before each checkpoint, to avoid a wait in each iteration; no checkpoint has broken weights.
    Clipping, or the scaler without a fused optimiser, checks gradients at once.
    """

    def __init__(self, interval=50):
        self.interval = interval
        self.seen = {}  # on a GPU: {kind: (names, flags)} since the last check

    def before_train(self, runner):
        self.runner, wrapper = runner, runner.optim_wrapper
        model = unwrapped(runner.model)
        self.names = {p: name for name, p in model.named_parameters()}
        self.parse, self.step = model.parse_losses, wrapper.step
        model.parse_losses, wrapper.step = self.parse_losses, self.guarded_step
        kind = getattr(wrapper, 'cast_dtype', None)
        self.scales = hasattr(wrapper, 'loss_scaler')
        self.may_skip = self.scales and kind in (None, torch.float16)
        clip = wrapper.clip_grad_kwargs
        self.clips = bool(clip) and wrapper.clip_func is torch.nn.utils.clip_grad_norm_
        if self.clips and not self.may_skip:
            clip.setdefault('error_if_nonfinite', True)  # torch checks before it scales the others
        wrapper.optimizer.register_step_pre_hook(self.before_step)

    def parse_losses(self, losses):
        loss, values = self.parse(losses)
        terms = {k: v.detach() for k, v in values.items() if 'loss' in k and torch.is_tensor(v)}
        if terms:
            self.check('loss', list(terms), are_broken(terms.values()))
        return loss, values

    def guarded_step(self, **kwargs):
        self.has_stepped = False
        try:
            self.step(**kwargs)
        except RuntimeError as error:
            if 'non-finite' not in str(error):
                raise
            self.fail('gradient', self.broken_gradients())
        if self.scales and not self.may_skip and not self.has_stepped:  # the scaler skipped it
            self.fail('gradient', self.broken_gradients())

    def before_step(self, optimizer, args, kwargs):
        """Called by the optimiser before its step: checks gradients that nothing else checks."""
        self.has_stepped = True
        if self.scales:
            # The scaler passes its flag to a fused optimiser, which skips the step by itself.
            found = getattr(optimizer, 'found_inf', None)
            if found is not None and not self.may_skip:
                self.check('gradient', [''], found.reshape(1) > 0)
        elif not self.clips:
            found = [(p, p.grad) for group in optimizer.param_groups for p in group['params']
                     if p.grad is not None]
            if found:
                # torch has no public function for the norms of many tensors in one kernel.
                self.check('gradient', [self.names.get(p, '') for p, _ in found],
                           are_broken(torch._foreach_norm([grad for _, grad in found])))

    def broken_gradients(self):
        return [name for p, name in self.names.items()
                if p.grad is not None and not p.grad.isfinite().all()]

    def check(self, what, names, broken):
        """Check ``broken`` ((names,) bool): at once on a CPU, on a GPU later."""
        if not self.waits(broken):
            self.require_none(what, names, broken)
        elif what in self.seen and self.seen[what][0] == names:
            self.seen[what][1].logical_or_(broken)
        else:
            self.check_seen()
            self.seen[what] = names, broken

    @staticmethod
    def waits(broken):
        return broken.is_cuda

    def check_seen(self):
        for what, (names, broken) in self.seen.items():
            self.require_none(what, names, broken, ' or before')

    def require_none(self, what, names, broken, when=''):
        if broken.any():
            self.fail(what, [name for name, is_bad in zip(names, broken.tolist()) if is_bad], when)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.seen and self.every_n_train_iters(runner, self.interval):
            self.check_seen()

    def before_save_checkpoint(self, runner, checkpoint):
        self.check_seen()

    def fail(self, what, names, when=''):
        where = f'iteration {self.runner.iter + 1}, epoch {self.runner.epoch + 1}{when}'
        if what == 'loss':  # name the sum only if no term is broken
            named = ', '.join([name for name in names if name != 'loss'] or names)
        else:
            named = f'of {next(filter(None, [*names, *self.broken_gradients()]), "a parameter")}'
        raise FloatingPointError(
            f'{what} {named} is NaN or infinite in {where}. The training stopped without a new '
            'checkpoint; earlier checkpoints are good. Lower the learning rate, clip gradients '
            '(optim_wrapper.clip_grad), or look at the images of this iteration')


def are_broken(values):
    """(values,) bool: which of these one-element tensors are NaN or infinite."""
    return ~torch.stack([value.float() for value in values]).isfinite()
