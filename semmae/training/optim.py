"""Parameter groups, with MAE's layer decay and weight decay, and bfloat16 on a CPU."""
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's constructor for any model with a ``backbone``, mmseg's segmentors included.

    ``paramwise_cfg.layer_decay_rate`` (1 if absent) is MAE's layer decay: the head has the full
    rate, layer i of n the rate times decay**(n + 1 - i), the embedding decay**(n + 1).
    Parameters of equal rate and decay share one group, so that a scheduler step costs little.
    """

    def add_params(self, params, module, prefix='', get_layer_depth=None, **kwargs):
        if prefix:
            return super().add_params(params, module, prefix, get_layer_depth, **kwargs)
        backbone = getattr(module, 'backbone', None)

        def depth(name):
            if self.paramwise_cfg.get('layer_decay_rate', 1.0) == 1.0:
                return 0, 1
            try:
                return backbone.get_layer_depth(name, prefix='backbone.')
            except (AttributeError, NotImplementedError):
                raise ValueError(
                    f'layer_decay_rate needs a backbone that tells the depth of its layers, got '
                    f'{type(backbone).__name__} in {type(module).__name__}. Set '
                    'optim_wrapper.paramwise_cfg.layer_decay_rate=1.0') from None

        single = []
        super().add_params(single, module, prefix, depth, **kwargs)
        groups = {}
        for one in single:
            for name in ('param_name', 'layer_id'):
                one.pop(name)
            key = tuple(sorted((k, v) for k, v in one.items() if k != 'params'))
            groups.setdefault(key, dict(one, params=[]))['params'] += one['params']
        params += groups.values()


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """What mmengine's AmpOptimWrapper is on a GPU: matrix products in bfloat16, weights in float32.

    dtype: bfloat16; no other is of use on a CPU.
    """

    def __init__(self, dtype='bfloat16', **kwargs):
        super().__init__(**kwargs)
        self.dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', self.dtype):
            yield


def multiplies_bfloat16():
    """Whether this CPU has instructions for bfloat16; without them it is slower than float32."""
    can = getattr(torch.cpu, 'get_capabilities', dict)()
    return bool(can.get('avx512_bf16') or can.get('amx_bf16') or can.get('bf16'))
