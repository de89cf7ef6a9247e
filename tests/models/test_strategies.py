"""Masking strategies: exact sizes, repeatable masks, and which inputs each of them uses."""
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from semmae.datasets.part_store import PartStore
from semmae.functional.masking import attention_mask, num_masked
from semmae.models.masking import Candidates
from semmae.registry import HOOKS, MODELS
from tests.conftest import REPO
from tests.models.test_semmae import build
from tests.tiny import tool

STRATEGIES = [
    dict(type='semmae.RandomMasking'), dict(type='semmae.BlockwiseMasking'),
    *(dict(type='semmae.AttentionMasking', mode=mode)
      for mode in ('high', 'hint', 'low', 'nonessential')),
    *(dict(type='semmae.PartGuidedMasking', num_parts=6, alpha_start=a, alpha_end=a)
      for a in (0., .5, 1.)),
    dict(type='semmae.AdversarialMasking', patch_size=8)]
NAMES = [f'{s["type"]}-{s.get("mode", s.get("alpha_start", ""))}' for s in STRATEGIES]


def candidates(batch=5, keep=None, seed=0, progress=.5):
    """64 patches of 8x8 pixels, or ``keep`` of them as foreground."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.arange(64).expand(batch, -1)
    if keep:
        ids = torch.rand(batch, 64, generator=g).argsort(1)[:, :keep].sort(1).values
    k = ids.shape[1]
    return Candidates(
        images=torch.randn(batch, 3, 64, 64, generator=g), grid=(8, 8), ids=ids,
        noise=torch.rand(batch, k + 6, generator=g), progress=progress,
        part_ids=torch.randint(6, (batch, k), generator=g),
        scores=torch.randint(256, (batch, k), generator=g, dtype=torch.uint8))


@pytest.fixture(scope='module')
def kept():
    """One model that masks among 32 of 64 patches, for any strategy."""
    return build(STRATEGIES[0], num_candidates=32)


@pytest.fixture(scope='module')
def on_meta():
    """The same without values: reading one raises. Its mask size counts as checked."""
    model = build(STRATEGIES[0], num_candidates=32).to('meta')
    model.is_mask_size_checked = True
    return model


def with_strategy(model, strategy):
    model.masking = MODELS.build(strategy)
    return model


@pytest.mark.parametrize('strategy', STRATEGIES, ids=NAMES)
@settings(max_examples=12, deadline=None)
@given(keep=st.sampled_from([None, 16, 32, 61]), seed=st.integers(0, 99),
       ratio=st.sampled_from([.5, .6, .75]))
def test_every_strategy_masks_the_exact_number_and_is_a_function_of_its_noise(
        strategy, keep, seed, ratio):
    seen = candidates(keep=keep, seed=seed)
    masking = MODELS.build(dict(strategy, mask_ratio=ratio))
    mask = masking(seen)
    assert mask.dtype == torch.bool and mask.shape == seen.ids.shape
    assert (mask.sum(1) == num_masked(seen.ids.shape[1], ratio)).all()
    assert mask.equal(masking(seen))


@pytest.mark.parametrize('strategy', STRATEGIES, ids=NAMES)
def test_every_strategy_trains_with_background_dropped(kept, strategy):
    model = with_strategy(kept, strategy)
    seen = candidates()
    losses = model(seen.images, part_ids=seen.part_ids, foreground=seen.scores, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert losses['loss'] > 0
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in model.masking.parameters())


@pytest.mark.parametrize('strategy', STRATEGIES, ids=NAMES)
def test_no_step_waits_for_the_device(on_meta, strategy):
    model = with_strategy(on_meta, strategy).to('meta')
    seen = candidates()
    images, part_ids, scores, noise = (
        x.to('meta') for x in (seen.images, seen.part_ids, seen.scores, seen.noise))
    losses = model(images, part_ids, scores, noise, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    with pytest.raises((RuntimeError, NotImplementedError)):
        losses['loss'].item()


@pytest.mark.slow
def test_pre_training_at_8x8_costs_what_it_costs_at_16x16():
    flops = []
    for config in ('semmae_pretrain.py', 'ablations/semmae_vit-base-p16.py'):
        with torch.device('meta'):
            model = MODELS.build(Config.fromfile(REPO / 'mm_configs' / config).model)
        model.is_mask_size_checked = True
        length = model.decoder.grid[0] ** 2
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224, device='meta'), mode='loss',
                  part_ids=torch.zeros(1, length, dtype=torch.long, device='meta'),
                  foreground=torch.zeros(1, length, device='meta'))['loss'].backward()
        flops.append(counter.get_total_flops() / 1e9)
    assert flops[0] == pytest.approx(flops[1], rel=.01)
    assert 50 < flops[0] < 60   # GFLOP, forward and backward; a multiply-add is two


def test_blocks_among_candidates_mask_neighbours():
    seen = candidates(batch=50, keep=16)
    mask = MODELS.build(dict(type='semmae.BlockwiseMasking'))(seen)
    y = seen.ids // 8
    # The rows of the patches in a block vary less than those of all candidates.
    assert y[mask].view(50, 12).float().var(1).mean() < y.float().var(1).mean()


@pytest.mark.parametrize('mode', ['high', 'hint', 'low', 'nonessential'])
def test_attention_masking_is_the_attention_mask_of_its_mode(mode):
    seen = candidates(batch=40)
    masking = MODELS.build(dict(type='semmae.AttentionMasking', mode=mode, mask_ratio=.5))
    assert masking(seen).equal(attention_mask(seen.scores, .5, mode, noise=seen.noise))


def test_attention_masks_refuse_a_store_of_other_scores(toy):
    with pytest.raises(ValueError, match='foreground .* expected attention'):
        PartStore(toy / 'parts' / 'train_8').require(foreground='attention')


def test_a_missing_input_is_named_with_the_command_that_makes_it():
    model = build(STRATEGIES[2])
    for strategy, need in ((STRATEGIES[2], 'scores'), (STRATEGIES[6], 'part_ids')):
        with pytest.raises(ValueError, match=f'needs {need}.*part_store .* tools/extract_parts.py'):
            with_strategy(model, strategy)(torch.zeros(1, 3, 64, 64), mode='loss')
    with pytest.raises(ValueError, match=r'part_ids have shape \(1, 256\), expected \(1, 64\)'):
        model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 256), mode='loss')


def test_more_noise_than_needed_gives_the_same_masks(kept):
    seen, wide = candidates(), torch.rand(5, 80)
    for strategy, num in ((STRATEGIES[0], 64), (STRATEGIES[6], 70)):
        model = with_strategy(kept, strategy)
        masks = []
        for noise in (wide, wide[:, :num]):
            model(seen.images, seen.part_ids, seen.scores, noise, mode='loss')
            masks.append(model.last_masks[1])
        assert masks[0].equal(masks[1])


@pytest.mark.parametrize('by_epoch, alphas', [(True, [0, 0, 0, .25, .25, .25]),
                                              (False, [(k / 6) ** 2 for k in range(6)])])
def test_alpha_follows_the_epoch_or_the_iteration(by_epoch, alphas):
    model = build(dict(type='semmae.PartGuidedMasking', num_parts=6, gamma=2.))
    hook = HOOKS.build(dict(type='semmae.ProgressHook', by_epoch=by_epoch))
    found = []
    for k in range(6):   # two epochs of three iterations
        runner = SimpleNamespace(model=model, epoch=k // 3, max_epochs=2, iter=k, max_iters=6)
        hook.before_train_iter(runner, k % 3)
        found.append(model.masking.alpha(model.progress))
    assert found == pytest.approx(alphas)


def test_a_mask_of_another_size_is_refused():
    model = build(dict(type='semmae.RandomMasking'))
    model.masking.forward = lambda seen: torch.zeros(seen.ids.shape, dtype=torch.bool)
    with pytest.raises(ValueError, match='0 to 0 of 64 .* expected 48'):
        model(torch.zeros(2, 3, 64, 64), mode='loss')


def test_the_adversary_learns_to_mask_what_is_hard():
    torch.manual_seed(0)
    masking = MODELS.build(dict(type='semmae.AdversarialMasking', patch_size=8, mask_ratio=.5))
    optimiser = torch.optim.Adam(masking.parameters(), 3e-3)
    is_hard = torch.arange(64) % 4 == 0   # a quarter of the patches is bright, with error 1
    share = []
    for step in range(30):
        seen = candidates(batch=16, seed=step)
        patches = seen.images.view(16, 3, 8, 8, 8, 8)
        patches += 2. * is_hard.view(8, 8)[None, None, :, None, :, None]
        mask = masking(seen)
        share.append(mask[:, is_hard].float().mean().item())
        losses = masking.loss(seen, mask, mask * is_hard.float())
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert share[0] < .6 and sum(share[-10:]) / 10 > .9


OWN = '''
import torch
from mmengine.model import BaseModule
from semmae.registry import MODELS


@MODELS.register_module()
class ChequerMasking(BaseModule):
    """Masks three of four patches in a fixed pattern."""
    needs, mask_ratio = (), 0.75

    def forward(self, candidates):
        w = candidates.grid[1]
        y, x = candidates.ids // w, candidates.ids % w
        return (y % 2 == 1) | (x % 2 == 1)
'''
CONFIG = '''"""A strategy of one's own."""
_base_ = ['{repo}/mm_configs/mini/mae_p16_mini.py']
custom_imports = dict(imports=['my_masks'], allow_failed_imports=False)
model = dict(masking=dict(_delete_=True, type='semmae.ChequerMasking'))
train_dataloader = dict(batch_size=8, dataset=dict(
    min_length=0, dataset=dict(data_root='{toy}/imagenet/train', indices=16)))
train_cfg = dict(max_epochs=1)
'''


def test_a_users_strategy_outside_the_package_works_by_config_alone(toy, tmp_path, monkeypatch):
    (tmp_path / 'my_masks.py').write_text(OWN)
    (tmp_path / 'own.py').write_text(CONFIG.format(repo=REPO, toy=toy))
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH
    done = tool('train', 'own.py', '--work-dir', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'run/epoch_1.pth').is_file()
