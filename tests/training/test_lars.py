"""LARS as MAE's linear probing uses it: the rate is applied after the momentum."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.engine.optimizers import LARS as OfMMPretrain
from torch import nn

from semmae.registry import OPTIMIZERS

from ..tiny import REPO
from .test_optim import ARCH


def lars(*parameters, **kwargs):
    return OPTIMIZERS.build(dict(type='semmae.LARS', params=list(parameters), **kwargs))


def step(optimizer, *gradients):
    for parameter, grad in zip(optimizer.param_groups[0]['params'], gradients, strict=True):
        parameter.grad = torch.tensor(grad)
    optimizer.step()


def test_a_matrix_moves_by_its_trust_ratio_and_a_vector_by_its_gradient():
    matrix, vector = (nn.Parameter(torch.tensor(x)) for x in ([[3., 4.]], [3., 4.]))
    optimizer = lars(matrix, vector, lr=2., momentum=.5, trust_coefficient=.1)
    step(optimizer, [[0., 10.]], [0., 10.])
    # |w| = 5, |g| = 10, ratio .1 * 5 / 10 = .05: m = .5, w -= 2 * .5.
    torch.testing.assert_close(matrix.data, torch.tensor([[3., 3.]]))
    torch.testing.assert_close(vector.data, torch.tensor([3., -16.]))
    optimizer.param_groups[0]['lr'] = 1.
    step(optimizer, [[0., 0.]], [0., 0.])
    # Only the momentum is left, .25 and 5, times the rate of now.
    torch.testing.assert_close(matrix.data, torch.tensor([[3., 2.75]]))
    torch.testing.assert_close(vector.data, torch.tensor([3., -21.]))


def test_weight_decay_is_part_of_the_gradient_of_matrices_alone():
    matrix, vector = (nn.Parameter(torch.tensor(x)) for x in ([[0., 5.]], [0., 5.]))
    step(lars(matrix, vector, lr=1., momentum=0., weight_decay=2., trust_coefficient=.1),
         [[24., 0.]], [24., 0.])
    # (24, 10) is 26 long, so the ratio is .5 / 26.
    torch.testing.assert_close(matrix.data, torch.tensor([[-24 * .5 / 26, 5 - 10 * .5 / 26]]))
    torch.testing.assert_close(vector.data, torch.tensor([-24., 5.]))


def test_without_weights_or_gradient_there_is_no_ratio():
    matrix = nn.Parameter(torch.zeros(1, 2))
    step(lars(matrix, lr=1.), [[1., 2.]])
    assert matrix.data.tolist() == [[-1., -2.]]
    step(lars(matrix, lr=1.), [[0., 0.]])
    assert matrix.data.tolist() == [[-1., -2.]]


def follow(optimizer, parameters, rates):
    """The parameters after a few steps on one loss, with these learning rates."""
    for rate in rates:
        optimizer.param_groups[0]['lr'] = rate
        optimizer.zero_grad()
        sum((p - 1).square().sum() for p in parameters).backward()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def both(rates, **kwargs):
    found = []
    for build in (lambda p: lars(*p, lr=1., momentum=.9, **kwargs),
                  lambda p: OfMMPretrain(p, lr=1., momentum=.9)):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]
        found.append(follow(build(parameters), parameters, rates))
    return found


def test_at_a_constant_rate_and_with_adapted_vectors_it_equals_mmpretrains():
    ours, theirs = both([1.] * 20, adapts_vectors=True)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)
    (_, ours), (_, theirs) = both([1.] * 20)
    assert not torch.allclose(ours, theirs)


def test_at_a_falling_rate_it_differs_from_mmpretrains():
    ours, theirs = both([1.] * 10 + [0.] * 5, adapts_vectors=True)
    still = both([1.] * 10, adapts_vectors=True)[0]
    assert ours[0].equal(still[0])  # a rate of 0 moves nothing
    assert not torch.allclose(theirs[0], still[0])


@pytest.mark.parametrize('name', ['lr', 'momentum', 'weight_decay', 'trust_coefficient'])
def test_negative_settings_are_refused(name):
    with pytest.raises(ValueError, match=f'LARS: {name} is -1.0, expected 0 or more'):
        lars(nn.Parameter(torch.zeros(1)), **{'lr': 1., name: -1.})


def test_a_loaded_state_continues_bit_identical():
    def fresh():
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]
        return parameters, lars(*parameters, lr=1., momentum=.9)
    parameters, optimizer = fresh()
    whole = follow(optimizer, parameters, [1.] * 6)
    parameters, optimizer = fresh()
    follow(optimizer, parameters, [1.] * 3)
    again = lars(*parameters, lr=1.)
    again.load_state_dict(optimizer.state_dict())
    assert all(a.equal(b) for a, b in zip(follow(again, parameters, [1.] * 3), whole))


@pytest.mark.parametrize('name, adapts', [
    ('semmae_linprobe', False), ('ablations/linprobe_vit-base-p16', False),
    ('mini/linprobe_p16_mini', True), ('mini/linprobe_p8_mini', True)])
def test_probes_train_the_classifier_with_it(name, adapts):
    cfg = Config.fromfile(REPO / f'mm_configs/{name}.py')
    model = nn.Module()
    model.backbone = nn.Linear(ARCH['embed_dims'], 2).requires_grad_(False)
    model.head = nn.Linear(2, 3)
    wrapper = build_optim_wrapper(model, dict(
        {k: v for k, v in cfg.optim_wrapper.items() if k not in ('dtype', 'loss_scale')},
        type='OptimWrapper'))
    optimizer = wrapper.optimizer
    assert type(optimizer).__module__ == 'semmae.training.lars'
    (group,) = optimizer.param_groups
    assert group['adapts_vectors'] == adapts and group['trust_coefficient'] == 0.001
    assert {id(p) for p in group['params']} >= {id(p) for p in model.head.parameters()}
