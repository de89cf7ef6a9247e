"""What a dry run says that a row costs, against sums by hand and a file that was written."""
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console

from semmae.config.lookup import full_size, innermost
from semmae.config.options import read_config
from semmae.registry import MODELS
from semmae.suites import costs as module
from semmae.suites import counts as kept_counts
from semmae.suites import step as counting
from semmae.suites.catalogue import MINI, PAPER, PARTS_CUB, TABLE3_TRUE, TRANSFER
from semmae.suites.costs import costs, duration, optimizer_states, scaled, show, stated_images
from semmae.suites.roofline import Device, probe
from semmae.suites.rows import Train
from semmae.suites.schedule import plan
from semmae.suites.step import Alive, Step, encoding_of, step_of
from semmae.training.run import prepare

from .conftest import little, mae_on

MAE = 'mm_configs/mini/mae_p16_mini.py'
PROBE = 'mm_configs/mini/linprobe_p16_mini.py'


def run_of(tmp_path, config, **options):
    """A plan of one row."""
    return plan(little(Train('row', 'product', config, options)), tmp_path)


@pytest.mark.slow
def test_a_checkpoint_is_the_weights_and_two_moments_in_float32_and_so_is_its_file(toy, tmp_path):
    (run,) = run_of(tmp_path, MAE, **mae_on(toy))
    (cost,) = costs([run])
    model = MODELS.build(Config.fromfile(MAE).model)
    weights = sum(t.numel() for t in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert cost.disk == 2 * 4 * (weights + 2 * trained)     # AdamW; two of three are kept
    assert weights == pytest.approx(trained, rel=.05)       # fixed positions are not trained

    cfg = prepare(MAE, tmp_path / 'work', options=mae_on(toy))
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    cfg.train_cfg.max_epochs = 2
    Runner.from_cfg(cfg).train()
    files = sum(p.stat().st_size for p in (tmp_path / 'work').glob('epoch_*.pth'))
    assert cost.disk == pytest.approx(files, rel=.1)


def test_the_compute_of_a_frozen_vit_is_that_of_its_matrices(toy, tmp_path):
    (cost,) = costs(run_of(tmp_path, PROBE, **{
        'train_dataloader.dataset.dataset.data_root': str(toy / 'imagenet/train'),
        'train_dataloader.batch_size': 8}))
    d, hidden, tokens, layers, classes = 96, 384, 65, 4, 8
    layer = tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens * tokens * d
    forward = layers * layer + 64 * (8 * 8 * 3) * d
    head = 2 * d * classes          # forward, and backward to its weights: nothing is below it
    images, epochs = 16, 6
    assert (cost.images, cost.is_counted) == (images, True)
    assert cost.flops == 2 * (forward + head) * images * epochs     # a product and a sum


def test_training_costs_three_times_its_forward_pass_but_for_the_gradient_of_the_image(tmp_path):
    """Known for ViT-B/16: 17.6 GFLOP multiplied and added apart, an image (MAE, DeiT: 17.5 G)."""
    cfg = Config.fromfile('mm_configs/ablations/finetune_vit-base-p16.py')
    each = step_of(cfg).flops / cfg.train_dataloader.batch_size
    assert each == pytest.approx(3 * 2 * 17.6e9, rel=.01)


def test_memory_is_what_is_alive_at_a_time():
    layer = torch.nn.Linear(10, 10)
    with Alive(layer) as alive:
        x = torch.zeros(1000)               # 4000 bytes
        x = x + 1                           # 8000 for a moment
        x.view(10, 100).t()                 # a view is nothing new
        layer.weight.t()
        y = torch.zeros(500)                # 6000
    assert (alive.peak, alive.now) == (8000, 6000)
    del x, y
    assert alive.now == 0


@pytest.mark.slow
def test_memory_of_a_row_grows_with_its_batch_from_what_the_weights_take(toy, tmp_path):
    small, large = (costs(run_of(tmp_path, MAE, **mae_on(toy) | {
        'train_dataloader.batch_size': batch}))[0].memory for batch in (8, 16))
    model = MODELS.build(Config.fromfile(MAE).model)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert 3 * weights < small < large < 2 * small


@pytest.mark.parametrize('optimizer, states', [
    (dict(type='AdamW', fused=True, lr=1e-3), 2), (dict(type='SGD', lr=.1), 0),
    (dict(type='SGD', lr=.1, momentum=.9), 1), (dict(type='LARS', lr=.1, momentum=.9), 1)])
def test_the_states_of_an_optimiser_are_found_by_asking_it(optimizer, states):
    assert optimizer_states(Config(dict(
        default_scope='mmpretrain', optim_wrapper=dict(optimizer=optimizer)))) == states


def test_time_is_the_longer_of_computing_and_moving_at_given_rates_or_unknown(toy, tmp_path):
    runs = run_of(tmp_path, MAE, **mae_on(toy))
    unknown, slow, fast = (costs(runs, device)[0] for device in (
        None, Device(2e12, 1e9), Device(2e12)))
    assert unknown.seconds is None and unknown.source == ''
    cfg = Config.fromfile(MAE)
    cfg.train_dataloader.batch_size = 8
    assert slow.seconds == pytest.approx(step_of(cfg).moved(states=2) / 1e9 * 2 * 3)  # AdamW
    assert fast.seconds == pytest.approx(fast.flops / 2e12)
    assert (slow.source, fast.source) == ('at 2 TFLOP/s and 1 GB/s', 'at 2 TFLOP/s')


def test_what_a_step_moves_is_weights_gradients_moments_and_what_waits_for_the_backward_pass():
    cfg = Config.fromfile(PROBE)
    cfg.model.head.num_classes, batch = 10, 8
    step = step_of(cfg, batch=batch, is_mixed=False)
    vit = 4 * sum(p.numel() for p in MODELS.build(dict(cfg.model.backbone, init_cfg=None))
                  .parameters())
    head = 4 * (96 * 10 + 10)
    assert (step.parameters, step.trained) == (vit + head, head)
    # Below the head nothing waits: its input, its norm's statistics, logits and loss.
    assert 4 * batch * 96 < step.features < 4 * batch * (96 + 3 * 10)
    assert step.moved(states=1) == vit + 8 * head + 2 * step.features


def test_features_double_with_the_batch_and_weights_do_not():
    cfg = Config.fromfile(MAE)
    small, large = (step_of(cfg, batch=batch, is_mixed=False) for batch in (8, 16))
    assert large.features == pytest.approx(2 * small.features, rel=.01)
    assert large.parameters == small.parameters and large.flops == 2 * small.flops


@pytest.mark.slow
def test_mixed_precision_halves_what_is_alive_and_keeps_no_attention_matrix():
    """784 patches: in bfloat16 each matrix would be 12 x 785 x 785 x 2 bytes, 15 MB an image."""
    cfg, batch = Config.fromfile('mm_configs/semmae_finetune.py'), 8
    plain, mixed = (step_of(cfg, batch, is_mixed) for is_mixed in (False, True))
    assert .45 * plain.peak < mixed.peak < .7 * plain.peak
    assert mixed.flops == plain.flops


def test_extraction_reads_images_and_writes_tokens():
    encoder = Config.fromfile('mm_configs/mini/semmae_parts_mini.py').model.encoder
    step, one = (encoding_of(encoder, batch, False) for batch in (8, 1))
    images = 4 * 8 * 3 * 96 * 96
    assert step.trained == 0 and images < step.features < 2 * images
    assert step.flops == 8 * one.flops
    assert step.moved(0) == step.parameters + 2 * step.features


def test_a_probe_finds_what_this_machine_sustains():
    device = probe(seconds=.01)
    assert 1e9 < device.flops < 1e15 and 1e8 < device.bandwidth < 1e13
    assert device.lower_bound(device.flops, 0) == 1. == device.lower_bound(0, device.bandwidth)


def test_time_of_a_training_that_ran_before_is_measured(toy, tmp_path):
    runs = run_of(tmp_path / 'new', MAE, **mae_on(toy))
    log = tmp_path / 'old/seed0/any/20260101_000000/vis_data'
    log.mkdir(parents=True)
    cfg = Config.fromfile(MAE)
    cfg.train_dataloader.batch_size = 8
    cfg.dump(log / 'config.py')
    (log / 'scalars.json').write_text('\n'.join([
        *map(json.dumps, (dict(time=.25, loss=1., memory=300, step=1),
                          dict(time=.75, loss=1., step=2),
                          {'accuracy/top1': 5., 'time': 9., 'step': 1})), '{"time": 9']))
    (cost,) = costs(runs, Device(2e12), [tmp_path / 'old'])
    assert cost.seconds == .5 * 2 * 3                # two iterations an epoch, three epochs
    assert cost.memory == 300 * 2 ** 20
    bound = cost.flops / 6 / 2e12
    assert cost.source == (f'measured, 0.5 s an iteration in {tmp_path / "old/seed0/any"}, '
                           f'{.5 / bound:.3g} times the roofline')
    cfg.train_dataloader.batch_size = 4              # another training
    cfg.dump(log / 'config.py')
    assert costs(runs, measured=[tmp_path / 'old'])[0].seconds is None


@pytest.fixture
def uncounted(monkeypatch):
    """No step is counted: only images and what follows from them."""
    for name in ('step_of', 'encoding_of'):
        monkeypatch.setattr(module, name, lambda *_: Step(0, 0, 0, 0, 0, 0, 0))


def test_images_come_from_the_recipe_where_the_data_are_absent(tmp_path, uncounted):
    runs = plan(PAPER, tmp_path, ['semmae_p16', 'store_28_val'])
    found = dict(zip((run.id for run in runs), costs(runs)))
    assert (found['semmae_p16'].images, found['semmae_p16'].is_counted) == (1281167, False)
    assert found['store_14'].disk == 2 * 14 ** 2 * 1281167
    assert found['store_28_val'].images is None, 'no config says how many there are'


@pytest.fixture
def without_data(tmp_path, monkeypatch, uncounted):
    """The repository's configs in a working directory that has no data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mm_configs').symlink_to(Path(module.__file__).parents[2] / 'mm_configs')


def test_images_that_a_row_of_the_plan_makes_are_those_of_its_command(tmp_path, without_data):
    runs = plan(MINI, tmp_path)
    found = dict(zip((run.id for run in runs), costs(runs)))
    assert {name: cost.images for name, cost in found.items() if cost.images} == dict(
        mae_p16=3000, parts=3000, store_8=3000, semmae_p16=3000, **{
            'linprobe/mae_p16': 3000, 'linprobe/semmae_p16': 3000, 'linprobe/scratch': 3000,
            'cub/mae_p16': 800, 'cub/semmae_p16': 800, 'ade20k/mae_p16': 600,
            'ade20k/semmae_p16': 600})
    assert all(cost.is_counted for cost in found.values() if cost.images)
    mine = plan(replace(MINI, images='mine'), tmp_path, ['mae_p16'])
    known = costs(mine, known={'mine': 2000})[-1]
    assert (known.images, known.is_counted) == (4000, True), 'repeated to 3000 at least'
    table3 = plan(TABLE3_TRUE, tmp_path, ['store_val', 'semmae_p8'])
    images = {run.id: cost.images for run, cost in zip(table3, costs(table3))}
    assert (images['store'], images['store_val'], images['semmae_p8']) == (8000, 5000, 8000)


@pytest.mark.parametrize('suite', [MINI, PARTS_CUB, TRANSFER])
def test_reduced_configs_never_take_the_recipes_number_of_images(suite, tmp_path, without_data):
    suite = replace(suite, images='data/imagenet/train')
    runs = [run for run in plan(suite, tmp_path) if run.id != 'data']
    assert not any(cost.images for cost in costs(runs))


def test_no_mini_config_states_how_many_images_it_trains_on():
    for config in Path('mm_configs/mini').glob('*.py'):
        assert stated_images(read_config(config), config) is None, config


@pytest.mark.slow
def test_configs_of_the_papers_size_state_how_many_images_they_train_on():
    configs = {row.config for row in PAPER.rows if isinstance(row, Train)}
    assert len(configs) > 40
    for config in configs:
        cfg = read_config(config)
        assert stated_images(cfg, config) == full_size(cfg)['num_train'] > 3000, config
        innermost(cfg.train_dataloader).data_root = 'mine'
        assert stated_images(cfg, config) is None, config


@pytest.mark.slow
def test_several_processes_share_the_images_and_hold_buckets_each():
    one, eight = (costs(plan(PAPER, 'w', ['mae_p16'], gpus=gpus), Device(1e14))[-1]
                  for gpus in (1, 8))
    assert eight.flops == pytest.approx(one.flops, rel=1e-2)
    assert eight.seconds == pytest.approx(one.seconds / 8, rel=1e-2)
    cfg = Config.fromfile('mm_configs/ablations/mae_vit-base-p16.py')
    assert eight.memory - one.memory == step_of(cfg).trained


def test_a_dry_run_shows_costs_totals_and_commands(toy, tmp_path):
    runs = run_of(tmp_path, MAE, **mae_on(toy))
    (cost,) = found = costs(runs, Device(1e9))
    console = Console(file=io.StringIO(), width=40)
    show(runs, found, console, Device(1e9))
    said = console.file.getvalue()
    for text in (scaled(cost.flops, 'FLOP'), duration(cost.seconds), scaled(cost.memory, 'B'),
                 scaled(cost.disk, 'B')):
        assert said.count(text) >= 2, 'in the row and in the totals'
    assert '1 of 1 to run' in said and 'at 0.001 TFLOP/s on each device' in said
    assert 'global batch 8 = 8 x 1 process, but the recipe has 4096' in said
    assert f'{sys.executable} tools/train.py {MAE} --work-dir' in said
    show(runs, costs(runs), console)
    assert 'give the rates of one device, --tflops N' in console.file.getvalue()


def test_numbers_have_three_digits():
    assert scaled(0, 'B') == '0 B' and scaled(999, 'B') == '999 B'
    assert scaled(1234567, 'B') == '1.23 MB' and scaled(5.94e19, 'FLOP') == '59.4 EFLOP'
    assert [duration(s) for s in (5, 90, 5400, 4 * 86400)] == ['5 s', '1.5 min', '1.5 h', '4.0 d']
    assert math.isfinite(float(scaled(10 ** 24, 'FLOP').split()[0]))


def test_extraction_with_a_timm_encoder_costs_its_forward_pass():
    cfg = read_config('mm_configs/tiny_imagenet/parts.py')
    found = encoding_of(cfg.model.encoder, 2, is_mixed=True)
    # 12 layers of 65 tokens, 384 wide, and patches of 14 pixels.
    layer = 65 * 12 * 384 ** 2 + 2 * 65 ** 2 * 384
    embedding = 64 * 3 * 14 ** 2 * 384
    assert found.flops == 2 * 2 * (12 * layer + embedding)


def test_a_count_is_kept_for_the_same_code_only(counts, monkeypatch):
    cfg = read_config('mm_configs/mini/mae_p16_mini.py', {'train_dataloader.batch_size': 3})

    def files():
        return {*counts.glob('*.json')}
    before, counted = files(), step_of(cfg)
    (kept,) = files() - before
    counting.count_step.cache_clear()
    kept.write_text(kept.read_text().replace(str(counted.flops), '17'))
    assert step_of(cfg).flops == 17
    counting.count_step.cache_clear()
    kept.write_text('half a fi')
    assert step_of(cfg) == counted
    counting.count_step.cache_clear()
    kept.write_text(kept.read_text().replace(str(counted.flops), '17'))
    monkeypatch.setattr(kept_counts, 'code_and_versions', lambda: 'other code')
    assert step_of(cfg) == counted


def test_the_counts_of_all_suites_come_with_the_package(monkeypatch):
    def missing(asked):
        raise AssertionError(f'not in {kept_counts.SHIPPED}: {asked}. The code of the models or a '
                             'version changed. Run python -m semmae.suites.counts')
    known = kept_counts.known
    counting.count_step.cache_clear()
    monkeypatch.setattr(kept_counts, 'known', lambda asked, _: known(
        asked, lambda: missing(asked)))
    for runs in kept_counts.suites_in_full():
        costs(runs)


def test_a_count_of_the_package_is_what_is_counted_now():
    cfg = read_config('mm_configs/mini/mae_p16_mini.py', {})
    assert step_of(cfg) == counting.counted(
        json.dumps(counting.structure(cfg.model), sort_keys=True),
        cfg.train_dataloader.batch_size, cfg.optim_wrapper.type == 'AmpOptimWrapper',
        cfg.get('default_scope'), None)
