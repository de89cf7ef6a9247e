"""Parameter groups with MAE's layer decay and weight decay."""
from typing import Any

from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's constructor, for any model with a ``backbone`` (also mmseg's segmentors).

    ``paramwise_cfg.layer_decay_rate`` (1 if absent) is MAE's layer decay: the head has the full
    rate, layer i of n the rate times decay**(n + 1 - i), the embedding decay**(n + 1).
    Parameters with the same rate and decay share one group, so that a scheduler step costs little.
    """

    def add_params(self, params, module, prefix='', get_layer_depth=None, **kwargs):
        if prefix:
            return super().add_params(params, module, prefix, get_layer_depth, **kwargs)
        backbone: Any = getattr(module, 'backbone', None)

        def depth(name):
            if self.paramwise_cfg.get('layer_decay_rate', 1.0) == 1.0:
                return 0, 1
            try:
                return backbone.get_layer_depth(name, prefix='backbone.')
            except (AttributeError, NotImplementedError):
                raise ValueError(
                    f'layer_decay_rate needs a backbone with get_layer_depth, got '
                    f'{type(backbone).__name__} in {type(module).__name__}. Set '
                    'optim_wrapper.paramwise_cfg.layer_decay_rate=1.0') from None

        single: list[dict] = []
        super().add_params(single, module, prefix, depth, **kwargs)
        groups: dict[tuple, dict] = {}
        for one in single:
            for name in ('param_name', 'layer_id'):
                one.pop(name)
            key = tuple(sorted((k, v) for k, v in one.items() if k != 'params'))
            groups.setdefault(key, dict(one, params=[]))['params'] += one['params']
        params += groups.values()
