"""A training stops before the step if its loss or a gradient is NaN or infinite."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from semmae.checkpoints.read import read_checkpoint
from semmae.registry import OPTIM_WRAPPERS
from semmae.training.finite import FiniteHook

from ..tiny import REPO, config, trained
from .test_checkpointing import names, with_digests


@pytest.mark.parametrize('broken, more, said', [
    ('nan_loss=8', (), 'loss loss_other is NaN or infinite in iteration 8, epoch 2'),
    ('nan_gradient=8', (), 'gradient of first.weight is NaN or infinite in iteration 8, epoch 2'),
    ('nan_gradient=8', ('optim_wrapper.update(clip_grad=dict(max_norm=1.))',),
     'gradient of first.weight is NaN or infinite in iteration 8, epoch 2')])
def test_a_nan_loss_or_gradient_stops_before_the_step_and_is_not_saved(
        tmp_path, broken, more, said):
    path = config(tmp_path, f'model.update({broken})', *more)
    code, printed = trained(tmp_path, path, lambda: forbid_steps(8))
    assert code == 2 and said in printed and 'Traceback' not in printed, printed
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def forbid_steps(number):
    """The optimiser must not get to that step."""
    step, count = torch.optim.AdamW.step, 0

    def counting(self, *args, **kwargs):
        nonlocal count
        count += 1
        assert count < number
        return step(self, *args, **kwargs)
    torch.optim.AdamW.step = counting


@pytest.mark.parametrize('broken', ['nan_loss=8', 'nan_gradient=8'])
def test_without_the_hook_nan_weights_are_saved(tmp_path, broken):
    path = config(tmp_path, f'model.update({broken})', 'custom_hooks = []')
    code, said = trained(tmp_path, path)
    assert code == 0, said
    weight = read_checkpoint(tmp_path / 'work/epoch_3.pth')['state_dict']['first.weight']
    assert weight.isnan().all()


@OPTIM_WRAPPERS.register_module(force=True)
class TinyScaled(OptimWrapper):
    """mmengine's AmpOptimWrapper, which needs a GPU, in what the hook sees of it."""

    def __init__(self, dtype, **kwargs):
        super().__init__(**kwargs)
        self.cast_dtype, self.loss_scaler = getattr(torch, dtype), torch.amp.GradScaler(
            'cpu', init_scale=4.)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()

    def state_dict(self):
        return self.optimizer.state_dict()


def scaled(dtype, fused):
    return (f"optim_wrapper.update(type='semmae.TinyScaled', dtype='{dtype}')\n"
            f"optim_wrapper['optimizer'].update(fused={fused})")


@pytest.mark.slow
@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('dtype, ends', [('float16', 0), ('bfloat16', 2)])
def test_only_loss_scaling_of_float16_may_skip_a_step(tmp_path, dtype, ends, fused):
    """The scaler calls a fused optimiser in any case; the optimiser skips the step."""
    path = config(tmp_path, 'model.update(nan_gradient=8)', scaled(dtype, fused))
    code, said = trained(tmp_path, path)
    assert code == ends, said
    assert ends == 0 or 'gradient of first.weight is NaN or infinite in iteration 8' in said


def check_later():
    """As on a GPU."""
    FiniteHook.waits = staticmethod(lambda broken: True)


@pytest.mark.parametrize('broken, more, named', [
    # By then the weights are NaN, and with them every loss.
    ('nan_loss=8', '', 'loss loss_good, loss_other'),
    ('nan_gradient=8', '', 'loss loss_good, loss_other'),
    ('nan_gradient=8', scaled('bfloat16', True), 'gradient of a parameter')])
def test_on_a_gpu_losses_and_gradients_are_checked_before_a_checkpoint(
        tmp_path, broken, more, named):
    path = config(tmp_path, f'model.update({broken})', more)
    code, said = trained(tmp_path, path, check_later)
    assert code == 2 and f'{named} is NaN or infinite in iteration 13, epoch 2 or b' in said, said
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_on_a_gpu_losses_are_checked_at_the_interval_across_epochs(tmp_path):
    """Epochs of 6 iterations, checked after 4, 8 and 12."""
    path = config(tmp_path, 'model.update(nan_loss=7)', 'custom_hooks[2].update(interval=4)')
    code, said = trained(tmp_path, path, check_later)
    assert code == 2 and 'is NaN or infinite in iteration 8, epoch 2 or before' in said, said


@pytest.mark.slow
def test_every_shipped_training_has_both_hooks():
    for path in (REPO / 'mm_configs').rglob('*.py'):
        cfg = Config.fromfile(path) if '_base_' not in path.parts else {}
        if cfg.get('train_cfg'):
            kinds = {hook.type for hook in cfg.custom_hooks}
            assert {'semmae.FiniteHook', 'semmae.StopHook'} <= kinds, path
            assert cfg.default_hooks.checkpoint.type == 'semmae.CheckpointHook', path
