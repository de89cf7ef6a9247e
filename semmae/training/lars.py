"""LARS with MAE's rule, for linear probing (MAE, A.1; You et al. 2017)."""
import torch
from torch.optim import Optimizer

from ..registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """SGD with momentum; the learning rate of each matrix is relative to its norm.

    For a tensor p of two or more dimensions, ``g = grad + weight_decay * p`` is multiplied by
    ``trust_coefficient * |p| / |g|``, unless one of the two norms is 0. For vectors (biases, norms)
    g is the gradient: no ratio, no decay. Then ``m = momentum * m + g`` and ``p -= lr * m``.

    adapts_vectors: ratio and decay for vectors, too.
    mmpretrain's LARS multiplies by the learning rate inside the momentum, so that a falling rate
    reaches the weights about ``1 / (1 - momentum)`` steps later.
    """

    def __init__(self, params, lr, momentum=0.9, weight_decay=0., trust_coefficient=0.001,
                 adapts_vectors=False):
        settings = dict(lr=lr, momentum=momentum, weight_decay=weight_decay,
                        trust_coefficient=trust_coefficient)
        for name, value in settings.items():
            if not value >= 0:
                raise ValueError(f'LARS: {name} is {value}, expected 0 or more')
        super().__init__(params, dict(settings, adapts_vectors=adapts_vectors))

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have a gradient; the loss of ``closure`` or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    kept = self.state[p]
                    if 'momentum_buffer' not in kept:
                        kept['momentum_buffer'] = torch.zeros_like(p)
                    move = kept['momentum_buffer']
                    move.mul_(group['momentum']).add_(self.direction(p, group))
                    p.sub_(group['lr'] * move)
        return loss

    @staticmethod
    def direction(p, group):
        """g of one parameter."""
        if p.ndim < 2 and not group['adapts_vectors']:
            return p.grad
        grad = p.grad.add(p, alpha=group['weight_decay'])
        length, weight = grad.norm(), p.norm()
        ratio = group['trust_coefficient'] * weight / length
        return grad * torch.where((weight > 0) & (length > 0), ratio, torch.ones_like(ratio))
