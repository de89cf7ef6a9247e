"""From a training to its line in a table: what decided the weights travels with them."""
import json

import pytest

from semmae.checkpoints.read import read_checkpoint
from semmae.datasets.part_store import PartStore
from semmae.parts.extract import extract_parts
from semmae.parts.learner import LearnerSource
from semmae.reporting.tables import build_tables
from semmae.results.results import read_results
from semmae.training.run import train

from ..tiny import REPO, fork, tool, wait

pytestmark = pytest.mark.slow

DATA = 'train_dataloader.dataset.dataset'
MINI = f'{REPO}/mm_configs/mini'


def trained(folder, toy, config, seed=0, resume=False, **options):
    """The checkpoint of one epoch of two steps."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {f'{DATA}.data_root': str(toy / 'imagenet/train'), 'train_dataloader.batch_size': 8,
               'train_cfg.max_epochs': 1, **options}
    code = wait(fork(lambda: train(f'{MINI}/{config}', work_dir=str(folder / 'work'), seed=seed,
                                   resume=resume, options=options), folder / 'said.txt'))
    assert code == 0, (folder / 'said.txt').read_text()[-2000:]
    return folder / 'work/epoch_1.pth'


def pretrained(folder, toy, config='mae_p16_mini.py', **options):
    return trained(folder, toy, config, **{'train_dataloader.dataset.min_length': 0, **options})


@pytest.fixture(scope='module')
def mae(toy, tmp_path_factory):
    """A pre-training with seed 0."""
    return pretrained(tmp_path_factory.mktemp('mae'), toy)


@pytest.mark.slow
def test_two_different_pretrainings_are_two_lines_and_strict_refuses_them(mae, toy, tmp_path):
    """Mask ratio, learning rate and target of the loss differ, as if they were seeds."""
    other = pretrained(tmp_path / 'b', toy, seed=1, **{
        'model.masking.mask_ratio': .25, 'optim_wrapper.optimizer.lr': 1e-2,
        'model.norm_pix_loss': False})
    seed = pretrained(tmp_path / 'c', toy, seed=2)
    val = str(toy / 'imagenet/val')
    for number, weights in enumerate((mae, other, seed)):
        trained(tmp_path / f'probes/{number}', toy, 'linprobe_p16_mini.py', number, **{
            'val_dataloader.dataset.data_root': val, 'test_dataloader.dataset.data_root': val,
            'model.backbone.init_cfg.checkpoint': str(weights)})
    frame = build_tables(read_results(tmp_path / 'probes')[0])['linprobe-toy-set']
    assert sorted(ours.split('(')[1] for ours in frame['ours']) == ['n=1)', 'n=2)']
    (text,) = [t for t in frame.attrs['legend'] if 'different pre-trainings' in t]
    for field, *values in (('model.masking.mask_ratio', '0.75', '0.25'),
                           ('model.norm_pix_loss', 'true', 'false'),
                           ('optim_wrapper.optimizer.lr', '0.0015', '0.01')):
        assert any(f'{field} {a} / {b}' in text for a, b in (values, values[::-1])), text
    done = tool('make_tables', tmp_path / 'probes', '--strict')
    assert done.returncode == 3 and 'model.masking.mask_ratio' in done.stderr and not done.stdout


@pytest.mark.slow
def test_the_learner_of_a_part_store_travels_into_the_result(mae, toy, tmp_path):
    learner = pretrained(tmp_path / 'parts', toy, 'semmae_parts_mini.py',
                         **{'model.encoder.checkpoint': str(mae)})
    runs = {}
    for name, number in (('learned', 6), ('heads', 3)):
        source = LearnerSource(f'{MINI}/semmae_parts_mini.py', learner, 8, name)
        store = extract_parts(source, toy / 'imagenet/train', tmp_path / name)
        assert PartStore(store.root).manifest['learner']['model.blur_kernel'] == 3
        weights = pretrained(tmp_path / f'on_{name}', toy, 'semmae_p16_mini.py', **{
            f'{DATA}.part_store': str(store.root), f'{DATA}.num_parts': number,
            'model.masking.num_parts': number})
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
        mae, toy, tmp_path):
    def identity(path):
        return read_checkpoint(path)['meta']['semmae']['identity']
    options = {'load_from': str(mae), 'train_cfg.max_epochs': 2,
               'default_hooks.checkpoint.interval': 1}
    longer = pretrained(tmp_path, toy, **options)
    assert identity(longer)['start.weights'] and 'start.weights' not in identity(mae)
    last = longer.with_name('epoch_2.pth')
    whole = identity(last)
    last.unlink()
    last.with_name('epoch_2.pth.sha256').unlink()
    pretrained(tmp_path, toy, resume=True, **options)
    assert identity(last) == whole
