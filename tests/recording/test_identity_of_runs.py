"""From a training to its line in a table: what decided the weights travels with them."""
import json
import subprocess
import sys

import pytest

from semmae.checkpoints.read import read_checkpoint
from semmae.datasets.part_store import PartStore
from semmae.parts.extract import extract_parts
from semmae.reporting.tables import build_tables
from semmae.results.results import read_results
from semmae.training.run import train

from ..tiny import REPO, fork, wait

DATA = 'train_dataloader.dataset.dataset'
MINI = f'{REPO}/mm_configs/mini'


def trained(folder, config, **kwargs):
    code = wait(fork(lambda: train(f'{MINI}/{config}', work_dir=str(folder / 'work'), **kwargs),
                     folder / 'said.txt'))
    assert code == 0, (folder / 'said.txt').read_text()[-2000:]
    return folder / 'work'


def pretrained(folder, toy, config='mae_p16_mini.py', seed=0, **options):
    folder.mkdir(parents=True)
    return trained(folder, config, seed=seed, options={
        f'{DATA}.data_root': str(toy / 'imagenet/train'), 'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.min_length': 0, 'train_cfg.max_epochs': 1, **options}
    ) / 'epoch_1.pth'


def probed(folder, toy, weights, seed=0):
    folder.mkdir(parents=True)
    val = str(toy / 'imagenet/val')
    return trained(folder, 'linprobe_p16_mini.py', seed=seed, options={
        f'{DATA}.data_root': str(toy / 'imagenet/train'), 'train_dataloader.batch_size': 8,
        'val_dataloader.dataset.data_root': val, 'test_dataloader.dataset.data_root': val,
        'train_cfg.max_epochs': 1, 'model.backbone.init_cfg.checkpoint': str(weights)})


@pytest.mark.slow
def test_two_different_pretrainings_are_two_lines_and_strict_refuses_them(toy, tmp_path):
    """Mask ratio, learning rate and target of the loss differ, as if they were seeds."""
    one = pretrained(tmp_path / 'a', toy)
    two = pretrained(tmp_path / 'b', toy, seed=1, **{
        'model.masking.mask_ratio': .25, 'optim_wrapper.optimizer.lr': 1e-2,
        'model.norm_pix_loss': False})
    seed = pretrained(tmp_path / 'c', toy, seed=2)
    for name, weights, number in (('pa', one, 0), ('pb', two, 1), ('pc', seed, 2)):
        probed(tmp_path / 'probes' / name, toy, weights, number)
    frame = build_tables(read_results(tmp_path / 'probes')[0])['linprobe-toy-set']
    assert sorted(ours.split('(')[1] for ours in frame['ours']) == ['n=1)', 'n=2)']
    (text,) = [t for t in frame.attrs['legend'] if 'different pre-trainings' in t]
    for field in ('model.masking.mask_ratio 0.75 / 0.25', 'model.norm_pix_loss true / false',
                  'optim_wrapper.optimizer.lr 0.0015 / 0.01'):
        one_way, other = field, ' '.join([field.split()[0], ' / '.join(
            reversed(field.split(' ', 1)[1].split(' / ')))])
        assert one_way in text or other in text, text
    done = subprocess.run(
        [sys.executable, REPO / 'tools/make_tables.py', tmp_path / 'probes', '--strict'],
        capture_output=True, text=True)
    assert done.returncode == 3 and 'model.masking.mask_ratio' in done.stderr and not done.stdout


@pytest.mark.slow
def test_the_learner_of_a_part_store_travels_into_the_result(toy, tmp_path):
    encoder = pretrained(tmp_path / 'encoder', toy)
    folder = tmp_path / 'parts'
    folder.mkdir()
    learner = trained(folder, 'semmae_parts_mini.py', options={
        f'{DATA}.data_root': str(toy / 'imagenet/train'), 'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.min_length': 0, 'train_cfg.max_epochs': 1,
        'model.encoder.checkpoint': str(encoder)}) / 'epoch_1.pth'
    store = extract_parts(f'{MINI}/semmae_parts_mini.py', learner, toy / 'imagenet/train',
                          tmp_path / 'store', grid=8)
    assert PartStore(store.root).manifest['learner']['model.blur_kernel'] == 3
    heads = extract_parts(f'{MINI}/semmae_parts_mini.py', learner, toy / 'imagenet/train',
                          tmp_path / 'heads', grid=8, source='heads')
    runs = {}
    for name, parts, number in (('learned', store, 6), ('heads', heads, 3)):
        weights = pretrained(tmp_path / f'on_{name}', toy, 'semmae_p16_mini.py', **{
            f'{DATA}.part_store': str(parts.root), f'{DATA}.num_parts': number,
            'model.masking.num_parts': number, f'{DATA}.pipeline.1.num_noise': 64 + number})
        runs[name] = read_checkpoint(weights)['meta']['semmae']
    fields = runs['learned']['identity']
    assert fields['parts.source'] == 'learned' and fields['parts.parts.foreground'] == 'border'
    assert fields['parts.learner.model.blur_kernel'] == 3
    assert fields['parts.learner.encoder.model.masking.type'] == 'semmae.RandomMasking'
    assert runs['heads']['identity']['parts.source'] == 'heads'
    assert runs['learned']['method'] == 'SemMAE'
    assert runs['heads']['method'] == 'SemMAE, encoder heads as parts'
    json.dumps(runs)  # plain data


@pytest.mark.slow
def test_weights_that_a_pretraining_starts_from_are_named_and_a_resumed_run_knows_them(
        toy, tmp_path):
    first = pretrained(tmp_path / 'first', toy)
    options = {'load_from': str(first), 'train_cfg.max_epochs': 2,
               'default_hooks.checkpoint.interval': 1}
    longer = pretrained(tmp_path / 'second', toy, **options)
    fields = read_checkpoint(longer)['meta']['semmae']['identity']
    assert fields['start.weights'] and 'start.weights' not in read_checkpoint(
        first)['meta']['semmae']['identity']
    last = longer.with_name('epoch_2.pth')
    whole = read_checkpoint(last)['meta']['semmae']['identity']
    last.unlink()
    last.with_name('epoch_2.pth.sha256').unlink()
    trained(tmp_path / 'second', 'mae_p16_mini.py', seed=0, resume=True, options={
        f'{DATA}.data_root': str(toy / 'imagenet/train'), 'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.min_length': 0, **options})
    assert read_checkpoint(last)['meta']['semmae']['identity'] == whole
