"""Parameter groups: layer-wise learning-rate decay and no decay where MAE has none."""
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


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
            if hasattr(backbone, 'get_layer_depth'):
                return backbone.get_layer_depth(name, prefix='backbone.')
            if self.paramwise_cfg.get('layer_decay_rate', 1.0) != 1.0:
                raise ValueError(f'layer_decay_rate needs a backbone with get_layer_depth, found '
                                 f'{type(backbone).__name__} in {type(module).__name__}')
            return 0, 1

        single = []
        super().add_params(single, module, prefix, depth, **kwargs)
        groups = {}
        for one in single:
            one.pop('param_name')
            key = tuple(sorted((k, v) for k, v in one.items() if k != 'params'))
            groups.setdefault(key, dict(one, params=[]))['params'] += one['params']
        params += groups.values()
