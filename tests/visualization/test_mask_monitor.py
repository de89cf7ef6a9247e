"""What the two hooks show of a mini pre-training: 16 toy images, four iterations an epoch."""
import json
import random
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from PIL import Image

from semmae.checkpoints.read import read_checkpoint
from semmae.models import SemMAE
from semmae.models.masking import Candidates
from semmae.registry import HOOKS
from semmae.reporting import figures
from semmae.training import run as training
from semmae.visualization import mask_monitor
from semmae.visualization.mask_monitor import MaskMonitorHook, PretrainPicturesHook, part_scalars

from ..tiny import REPO

pytestmark = pytest.mark.slow  # real trainings

MINI = REPO / 'mm_configs' / 'mini'
DATA = 'train_dataloader.dataset.dataset'
BASE = [dict(type='semmae.StepSeedHook'), dict(type='semmae.ProgressHook', by_epoch=True),
        dict(type='semmae.ResultRecorder')]
OURS = {f'masked_share_part{p}' for p in range(6)} | {
    'visible_parts', 'images_per_second', 'grad_norm'} | (
    set() if torch.cuda.is_available() else {'memory_mb'})


@HOOKS.register_module(force=True)
class Eavesdropper(mask_monitor.Hook):
    """Keeps every sample and mask that was trained on, by (epoch, image)."""

    heard = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        mask = runner.model.last_masks[1]
        for i, index in enumerate(data_batch['sample_idx'].tolist()):
            self.heard[runner.epoch, index] = (
                data_batch['inputs'][i].permute(1, 2, 0).numpy(), mask[i].cpu().reshape(8, 8))


def train(toy, work, hooks, config='semmae_p16_mini', epochs=2, every=1, **options):
    """Two epochs at batch 4, a log line after each iteration."""
    options = {f'{DATA}.data_root': str(toy / 'imagenet/train'),
               'train_dataloader.batch_size': 4, 'train_dataloader.dataset.min_length': 0,
               'train_cfg.max_epochs': epochs, 'default_hooks.logger.interval': every,
               'custom_hooks': [*BASE, *hooks], **options}
    if config == 'semmae_p16_mini':
        options[f'{DATA}.part_store'] = str(toy / 'parts/train_8')
    return training.train(MINI / f'{config}.py', work_dir=work, seed=0, options=options)


def lines(work):
    """{iteration: what scalars.json holds of it}."""
    [file] = Path(work).glob('*/vis_data/scalars.json')
    return {line['step']: line for line in map(json.loads, file.read_text().splitlines())}


@pytest.fixture(scope='module')
def watched(toy, tmp_path_factory):
    """(work directory, norm of each step, arguments of mask sheets, trained samples, runner)."""
    work, norms, sheets, runners = tmp_path_factory.mktemp('watched'), [], [], []
    step, sheet, run = OptimWrapper.step, figures.mask_sheet, Runner.train

    def measured(self, **kwargs):
        grads = [p.grad.flatten() for g in self.optimizer.param_groups for p in g['params']
                 if p.grad is not None]
        norms.append(torch.cat(grads).double().pow(2).sum().sqrt().item())
        return step(self, **kwargs)

    def kept(images, masks, *args, **kwargs):
        sheets.append((images, masks))
        return sheet(images, masks, *args, **kwargs)

    Eavesdropper.heard = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimWrapper, 'step', measured)
        patch.setattr(figures, 'mask_sheet', kept)
        patch.setattr(Runner, 'train', lambda self: (runners.append(self), run(self))[1])
        train(toy, work, [dict(type='semmae.MaskMonitorHook', interval=2),
                          dict(type='semmae.PretrainPicturesHook', interval=1, num=3),
                          dict(type='semmae.Eavesdropper')])
    return work, norms, sheets, Eavesdropper.heard, runners[0]


def test_shares_are_counted_over_the_batch_and_absent_parts_left_out():
    part_ids = torch.tensor([[0, 0, 0, 1], [0, 1, 3, 3]])
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]]).bool()
    # Part 0: 2 of 4 masked; part 1: 2 of 2; part 3: 1 of 2. Image 1 shows part 0, image 2: 0, 3.
    assert part_scalars(part_ids, mask, 6) == dict(
        masked_share_part0=.5, masked_share_part1=1., masked_share_part3=.5, visible_parts=1.5)
    assert part_scalars(part_ids, mask) == part_scalars(part_ids, mask, 6)


def test_values_are_logged_at_the_interval_and_nowhere_between(watched):
    logged = lines(watched[0])
    assert list(logged) == [1, 2, 3, 4, 5, 6, 7, 8]
    for step, line in logged.items():
        assert OURS & set(line) == (OURS if step % 2 == 0 else set()), step


def test_the_default_interval_is_that_of_the_logger_and_each_run_has_its_own_folder(
        toy, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.time', types.SimpleNamespace(
        time=lambda: 0., localtime=time.gmtime, strftime=time.strftime))  # both start at once
    found = {}
    for every, epochs in (3, 1), (50, 2):
        work = tmp_path / f'{every}'
        train(toy, work, [dict(type='semmae.MaskMonitorHook')], every=every, epochs=epochs)
        found[every] = {step: set(line) >= OURS for step, line in lines(work).items()}
    # A logger that waits longer than an epoch prints at its end.
    assert found == {3: {3: True}, 50: {4: True, 8: True}}


def test_the_norm_is_that_of_the_gradients_of_the_last_step(watched):
    work, norms, *_ = watched
    logged = lines(work)
    found = [logged[step]['grad_norm'] for step in (2, 4, 6, 8)]
    np.testing.assert_allclose(found, [norms[step - 1] for step in (2, 4, 6, 8)], rtol=1e-5)
    assert len(set(found)) == 4


def test_with_accumulation_the_norm_is_that_of_the_last_step_so_far(toy, tmp_path, monkeypatch):
    norms, step = {}, OptimWrapper.step

    def measured(self, **kwargs):
        grads = [p.grad.flatten() for g in self.optimizer.param_groups for p in g['params']]
        norms[self._inner_count] = torch.cat(grads).norm().item()
        return step(self, **kwargs)

    monkeypatch.setattr(OptimWrapper, 'step', measured)
    train(toy, tmp_path, [dict(type='semmae.MaskMonitorHook', interval=2)],
          **{'optim_wrapper.accumulative_counts': 3})
    assert list(norms) == [3, 6, 8]  # mmengine steps at the very end too
    found = {step: line['grad_norm'] for step, line in lines(tmp_path).items()
             if 'grad_norm' in line}
    assert found == pytest.approx({4: norms[3], 6: norms[6], 8: norms[8]}, rel=1e-5)


def test_with_clipping_the_norm_is_left_to_mmengine(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(OptimWrapper, '_clip_grad', lambda self: self.message_hub.update_scalar(
        'train/grad_norm', 7.))
    original = training.read_config

    def clipping(*args):
        cfg = original(*args)
        cfg.optim_wrapper.clip_grad = dict(max_norm=1.)
        return cfg
    monkeypatch.setattr(training, 'read_config', clipping)
    train(toy, tmp_path, [dict(type='semmae.MaskMonitorHook', interval=2)], epochs=1)
    assert [line['grad_norm'] for line in lines(tmp_path).values()] == [7., 7., 7., 7.]


@pytest.mark.parametrize('fused', [True, False])
def test_the_scale_of_mixed_precision_is_not_in_the_norm(fused):
    layer, hook = torch.nn.Linear(3, 2), MaskMonitorHook()
    optimizer = torch.optim.AdamW(layer.parameters(), fused=fused)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.)
    optimizer.register_step_pre_hook(hook.measure)
    x = torch.tensor([[1., 2., 2.]])
    scaler.scale(layer(x).sum()).backward()
    scaler.step(optimizer)
    # Each output: weight gradient x (norm 3), bias gradient 1; two outputs.
    assert hook.norm.item() == pytest.approx((2 * (9 + 1)) ** .5)


def test_nothing_stays_at_the_optimiser_or_in_checkpoints(watched):
    work, *_, runner = watched
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    kept = read_checkpoint(work / 'epoch_2.pth')['message_hub']['log_scalars']
    assert 'train/loss' in kept and not {f'train/{key}' for key in OURS} & set(kept)


def test_a_pretraining_without_parts_has_no_values_of_parts(toy, tmp_path):
    train(toy, tmp_path, [dict(type='semmae.MaskMonitorHook'),
                          dict(type='semmae.PretrainPicturesHook')], 'mae_p16_mini', 1, every=4)
    assert OURS & set(lines(tmp_path)[4]) == {k for k in OURS if 'part' not in k}
    assert len(list(tmp_path.glob('*/vis_data/vis_image/*.png'))) == 2


def a_runner(**more):
    """What a hook needs to see of a run: one part-guided batch of four images, six patches each."""
    model = SemMAE.__new__(SemMAE)
    torch.nn.Module.__init__(model)
    model.masking = torch.nn.Identity()
    ids = torch.arange(6).expand(4, -1)
    model.last_masks = (Candidates(torch.zeros(4, 3, 2, 3), (2, 3), ids, ids * .1, part_ids=ids),
                        ids > 1)
    logger = LoggerHook(interval=3)
    return types.SimpleNamespace(model=model, hooks=[logger], train_dataloader=range(9), cfg={},
                                 message_hub=MessageHub('monitor'), **more)


def test_throughput_counts_all_images_of_all_processes_since_the_last_line(monkeypatch):
    now = iter([100., 102., 106.])
    monkeypatch.setattr(mask_monitor.time, 'perf_counter', lambda: next(now))
    monkeypatch.setattr(mask_monitor, 'get_world_size', lambda: 2)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    runner = a_runner(optim_wrapper=OptimWrapper(optimizer))
    hook, found = MaskMonitorHook(), []
    hook.before_train(runner)
    for i in range(6):
        hook.before_train_iter(runner, i)
        hook.after_train_iter(runner, i, dict(inputs=torch.zeros(4, 3, 2, 3)))
        found.append(runner.message_hub.log_scalars.get('train/images_per_second'))
    # Three iterations of 4 images on 2 processes: 24 in two seconds, then 24 in four.
    assert [x and x.current() for x in found] == [None, None, 12., None, None, 6.]


@pytest.mark.parametrize('hook', [MaskMonitorHook(), PretrainPicturesHook()])
def test_another_model_is_refused_by_name(hook):
    with pytest.raises(ValueError, match='this run trains a Linear; take the hook out'):
        hook.before_train(types.SimpleNamespace(model=torch.nn.Linear(1, 1)))


def test_pictures_need_samples_that_can_be_replayed():
    runner = a_runner(train_loop=types.SimpleNamespace())
    runner.train_dataloader = types.SimpleNamespace(dataset=None)
    with pytest.raises(ValueError, match='expected EpochBasedTrainLoop, got SimpleNamespace'):
        PretrainPicturesHook().before_train(runner)
    with pytest.raises(ValueError, match='interval is 0 and num is 4'):
        PretrainPicturesHook(interval=0)
    with pytest.raises(ValueError, match='interval is 0, expected'):
        MaskMonitorHook(interval=0)


def test_training_is_the_same_bit_by_bit_with_and_without_watching(watched, toy, tmp_path):
    train(toy, tmp_path, [], **{'default_hooks.checkpoint.interval': 2})
    [path] = tmp_path.glob('epoch_*.pth')
    [other] = watched[0].glob(path.name)
    plain, seen = (read_checkpoint(file) for file in (path, other))
    assert all(seen['state_dict'][k].equal(v) for k, v in plain['state_dict'].items())
    for k, v in plain['optimizer']['state'].items():
        assert seen['optimizer']['state'][k]['exp_avg_sq'].equal(v['exp_avg_sq'])


def test_random_numbers_and_modes_are_given_back():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    layer = torch.nn.Dropout()
    with mask_monitor.undrawn(), mask_monitor.evaluating(layer):
        assert not layer.training
        random.random(), np.random.rand(), torch.rand(1)
        torch.manual_seed(9)
    assert layer.training
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_the_masks_shown_are_those_that_the_epoch_trained_on(watched):
    _, _, sheets, heard, _ = watched
    assert len(sheets) == 2
    for epoch, (images, masks) in enumerate(sheets):
        [(title, masks)] = masks.items()
        assert title == f'mask, α = {[0, .25][epoch]:.2g}'  # (epoch / 2) ** 2
        for image, mask, index in zip(images, masks, (0, 8, 15), strict=True):
            trained_on, removed = heard[epoch, index]
            assert (image == trained_on).all() and (mask == removed.numpy()).all()
    assert not (sheets[0][1]['mask, α = 0'] == sheets[1][1]['mask, α = 0.25']).all()


def test_pictures_of_every_epoch_are_files_of_the_size_of_the_sheet(watched):
    [folder] = watched[0].glob('*/vis_data/vis_image')
    assert sorted(p.name for p in folder.iterdir()) == [
        f'{name}_{epoch}.png' for name in ('masks', 'reconstructions') for epoch in (1, 2)]
    for path in folder.iterdir():
        with Image.open(path) as picture:
            pixels = np.array(picture.convert('RGB'))
        # Three columns of three cells of 192, and below them a caption.
        x, y = figures.cell_origin(3, 3, figures.cell_size(64, 64))
        assert pixels.shape[1] == x - figures.GAP + figures.MARGIN and pixels.shape[0] > y
        assert pixels.std() > 10
    x, y = figures.cell_origin(1, 0, (192, 192))
    shown = pixels[y:y + 192, x:x + 192][::3, ::3]
    assert (shown == watched[2][1][0][1]).all(), 'RGB, and the second image as it was trained on'


def test_between_intervals_pictures_are_drawn_after_the_last_epoch_only(toy, tmp_path):
    train(toy, tmp_path, [dict(type='semmae.PretrainPicturesHook', interval=2, num=1)], epochs=3)
    [folder] = tmp_path.glob('*/vis_data/vis_image')
    assert sorted(p.name for p in folder.glob('masks_*')) == ['masks_2.png', 'masks_3.png']


def test_what_is_dropped_as_background_is_pale_in_both_pictures(toy, tmp_path):
    train(toy, tmp_path, [dict(type='semmae.PretrainPicturesHook', num=1)], 'semmae_pretrain_mini',
          1, **{f'{DATA}.part_store': str(toy / 'parts/train_16')})
    [folder] = tmp_path.glob('*/vis_data/vis_image')
    for name in ('masks', 'reconstructions'):
        with Image.open(folder / f'{name}_1.png') as picture:
            x, y = figures.cell_origin(0, 2, (192, 192))
            patches = np.array(picture)[y:y + 192, x:x + 192].reshape(16, 12, 16, 12, 3)
        pale = (patches == figures.DROPPED).all((1, 3, 4))
        assert pale.sum() == 192, 'of 256 patches 64 are candidates'


def test_tensorboard_gets_scalars_and_pictures_if_it_is_installed(watched):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    [folder] = watched[0].glob('*/vis_data')
    events = EventAccumulator(str(folder), size_guidance=dict(images=0)).Reload()
    assert OURS | {'loss', 'alpha'} <= set(events.Tags()['scalars'])
    assert [e.step for e in events.Scalars('visible_parts')] == [2, 4, 6, 8]
    for name in ('masks', 'reconstructions'):
        found = events.Images(name)
        assert [e.step for e in found] == [1, 2] and len(found[0].encoded_image_string) > 1000


def test_without_tensorboard_the_log_is_as_the_config_says(monkeypatch):
    cfg = training.read_config(MINI / 'semmae_p16_mini.py')
    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    training.add_tensorboard(cfg)
    assert [backend.type for backend in cfg.visualizer.vis_backends] == ['LocalVisBackend']
    monkeypatch.setattr(training, 'find_spec', lambda name: name)
    training.add_tensorboard(cfg)
    training.add_tensorboard(cfg)
    assert [backend.type for backend in cfg.visualizer.vis_backends] == [
        'LocalVisBackend', 'TensorboardVisBackend']
