"""Mixed precision: the type of matrix products in a training, and bfloat16 on a CPU."""
import sys
from contextlib import contextmanager

import torch
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper

from ..config.lookup import kind
from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper for a CPU: matrix products in ``dtype``, weights in float32."""

    def __init__(self, dtype='bfloat16', **kwargs):
        super().__init__(**kwargs)
        self.dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', self.dtype):
            yield


def multiplies_bfloat16():
    """Whether this CPU has instructions for bfloat16; without them it is slower than float32."""
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    return any(can.get(name) for name in ('avx512_bf16', 'amx_bf16', 'bf16'))


def mixed_precision(optim_wrapper, asked):
    """The config of an optimiser wrapper with its precision written out.

    On a GPU: bfloat16, or float16 with loss scaling if the config says so. bfloat16 has the range
    of float32 and needs no loss scaling. On a CPU: bfloat16 if it is asked for, else float32.
    asked: --amp was given.
    Raises ValueError for a precision that cannot train, or that the machine does not have.
    """
    dtype, loss_scale = optim_wrapper.get('dtype'), optim_wrapper.get('loss_scale')
    if dtype not in (None, 'bfloat16', 'float16'):
        raise ValueError(f'optim_wrapper.dtype is {dtype!r}, expected bfloat16 or float16; for '
                         'float32 set optim_wrapper.type=OptimWrapper')
    if dtype == 'float16' and loss_scale == 1:
        raise ValueError('optim_wrapper.loss_scale is 1 with float16, where small gradients become '
                         '0; expected optim_wrapper.loss_scale=dynamic')
    plain = {k: v for k, v in optim_wrapper.items() if k not in ('dtype', 'loss_scale')}
    if torch.cuda.is_available():
        if dtype == 'float16':
            return dict(plain, type='AmpOptimWrapper', dtype=dtype,
                        loss_scale='dynamic' if loss_scale is None else loss_scale)
        return dict(plain, type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
    if asked or kind(optim_wrapper) == 'CPUAmpOptimWrapper':
        if dtype == 'float16' or asked and not multiplies_bfloat16():
            raise ValueError('--amp needs a GPU, or a CPU with bfloat16 instructions (AVX512-BF16, '
                             'AMX); got neither. Leave it out to train in float32')
        return dict(plain, type='semmae.CPUAmpOptimWrapper', dtype='bfloat16')
    if is_main_process():
        print('no GPU: float32 instead of mixed precision', file=sys.stderr)
    return dict(plain, type='OptimWrapper')
