"""The attentive probe: its attention, its stacked settings and what it reads."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.probes.attentive import AttentiveProbe, attend, initial
from semmae.probes.features import ArrayFeatures, Task
from semmae.registry import MODELS

TASK = Task('classification', 3)
FIT, REST = np.arange(40), np.arange(40, 60)
SMALL = dict(epochs=3, batch_size=16, num_heads=2)


def planted(with_class=True, n=60, patches=5, channels=8, seed=0):
    """One patch at a random place shows the class; the other patches are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    tokens = rng.normal(size=(n, patches, channels))
    tokens[np.arange(n), rng.integers(0, patches, n)] = 4 * np.eye(4, channels)[labels] + 4 * (
        np.arange(channels) == channels - 1)
    arrays = {(7, 'patches'): tokens}
    if with_class:
        arrays[7, 'class'] = 10 + rng.normal(size=(n, channels))
    return ArrayFeatures(arrays, labels, grid=(1, patches))


def test_attention_equals_pytorchs_multi_head_attention():
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 8)
    query, key, value = torch.randn(2, 2, 4), torch.randn(2, 2, 4, 8), torch.randn(2, 2, 4, 8)
    pooled = attend(tokens, query, key, value)
    for setting in range(2):  # both heads side by side: (D, D)
        expected, _ = F.multi_head_attention_forward(
            query[setting].view(1, 1, 8).expand(1, 3, 8), tokens.transpose(0, 1),
            tokens.transpose(0, 1), 8, 2, None, None, None, None, False, 0., torch.eye(8), None,
            use_separate_proj_weight=True, q_proj_weight=torch.eye(8),
            k_proj_weight=key[setting].reshape(8, 8), v_proj_weight=value[setting].reshape(8, 8))
        torch.testing.assert_close(pooled[:, setting], expected[0])


def test_a_setting_trained_alone_has_the_weights_of_the_stacked_training():
    data, probe = planted(), AttentiveProbe(lr=(1e-3, .01), weight_decay=(.01, .5), **SMALL)
    settings = probe.settings(data.layers)
    (numbers, stacked), = probe.fit(data, FIT, settings, TASK, seed=3)
    assert numbers == [0, 1, 2, 3]
    for number in numbers:
        alone = probe.fit(data, FIT, settings[number:number + 1], TASK, seed=3)[0][1]
        for name, value in alone.parameters[0].items():
            torch.testing.assert_close(stacked.parameters[number][name], value, atol=1e-5, rtol=0)
    assert not torch.allclose(stacked.parameters[0]['query'], stacked.parameters[3]['query'])


def test_training_equals_a_plain_loop_with_adamw():
    data, probe = planted(with_class=False), AttentiveProbe(lr=(.01,), weight_decay=(.1,), **SMALL)
    head = probe.fit(data, FIT, probe.settings(data.layers), TASK, seed=3)[0][1]
    generator = torch.Generator().manual_seed(3)
    own = {name: value.requires_grad_() for name, value in initial(2, 8, 3, generator).items()}
    optimizer = torch.optim.AdamW(own.values(), .01, weight_decay=.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    tokens, labels = data.tokens(7, 'patches', FIT), torch.tensor(data.labels[FIT])
    flat = tokens.flatten(0, 1)
    tokens = (tokens - flat.mean(0)) / (flat.var(0, correction=0) + 1e-6).sqrt()
    for _ in range(3):
        for batch in torch.randperm(40, generator=generator).split(16):
            x = tokens[batch]
            keys, values = (torch.einsum('bld,hed->bhle', x, own[n]) for n in ('key', 'value'))
            attention = torch.einsum('he,bhle->bhl', own['query'], keys).div(2.).softmax(2)
            pooled = torch.einsum('bhl,bhle->bhe', attention, values).flatten(1)
            optimizer.zero_grad()
            F.cross_entropy(pooled @ own['weight'] + own['bias'], labels[batch]).backward()
            optimizer.step()
            schedule.step()
    for name, value in own.items():
        torch.testing.assert_close(head.parameters[0][name], value, atol=1e-5, rtol=0)


def test_it_finds_the_patch_that_shows_the_class():
    data = planted()
    probe = AttentiveProbe(lr=(.03,), weight_decay=(0.,), epochs=30, batch_size=16, num_heads=2)
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, seed=0)
    assert probe.score(fitted, data, REST, TASK)[0] >= 90.
    predicted = torch.stack(list(probe.predict(fitted, 0, data, REST, TASK)))
    assert predicted.dtype == torch.float32 and not predicted.requires_grad
    torch.testing.assert_close(predicted.sum(1), torch.ones(20))


@pytest.mark.parametrize('with_class, tokens', [(True, 6), (False, 5)])
def test_the_class_token_is_attended_if_it_is_stored(with_class, tokens):
    data, probe = planted(with_class), AttentiveProbe(**{**SMALL, 'epochs': 1})
    head = probe.fit(data, FIT, probe.settings(data.layers), TASK, seed=0)[0][1]
    inputs = head.inputs(data, FIT)
    assert inputs.shape == (40, tokens, 8)
    assert inputs[:, -1].mean().abs() < 1.  # the class token has its own statistics


def test_patch_tokens_are_never_read_all_at_once(monkeypatch):
    data, read = planted(), []
    monkeypatch.setattr('semmae.probes.attentive.CHUNK', 8)
    monkeypatch.setattr('semmae.probes.attentive.AttentiveHeads.chunk', 8)
    original = ArrayFeatures.tokens

    def tokens(self, layer, kind, index=slice(None)):
        found = original(self, layer, kind, index)
        read.append(len(found))
        return found
    monkeypatch.setattr(ArrayFeatures, 'tokens', tokens)
    probe = AttentiveProbe(**SMALL)
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, seed=0)
    probe.score(fitted, data, REST, TASK)
    assert max(read) == 16  # batch_size


def test_a_setting_that_diverges_scores_minus_infinity_and_changes_no_other_setting():
    data = planted()
    both, one = (AttentiveProbe(lr=lr, weight_decay=(.01,), **SMALL)
                 for lr in ((1e30, .01), (.01,)))
    scores, alone = (probe.score(probe.fit(data, FIT, probe.settings(data.layers), TASK, 0), data,
                                 REST, TASK) for probe in (both, one))
    assert scores == [-math.inf, *alone]


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match='num_heads=3 does not divide the 8 channels'):
        probe = AttentiveProbe(num_heads=3)
        probe.fit(planted(), FIT, probe.settings((7,)), TASK, 0)
    with pytest.raises(ValueError, match='epochs=0, expected a whole number'):
        AttentiveProbe(epochs=0)
    with pytest.raises(ValueError, match='no settings: got no values for weight_decay'):
        AttentiveProbe(weight_decay=())
    with pytest.raises(ValueError, match='layer 7 patches tokens are not in these features'):
        probe = AttentiveProbe()
        probe.fit(ArrayFeatures({(7, 'class'): np.zeros((4, 8))}, np.zeros(4, int)), np.arange(4),
                  probe.settings((7,)), TASK, 0)


def test_the_probe_is_registered():
    assert isinstance(MODELS.build(dict(type='semmae.AttentiveProbe', lr=[.1])), AttentiveProbe)
