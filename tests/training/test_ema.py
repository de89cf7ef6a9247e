"""Averaged weights: evaluated, saved, and bit-identical after a stopped run is resumed."""
import json
import signal

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from semmae.checkpoints.read import read_checkpoint
from semmae.registry import DATASETS, HOOKS, METRICS
from semmae.training import run as training

from ..tiny import VALIDATION, TinyData, config, fork, trained, wait
from .test_stopping import told

EMA = '''
custom_hooks.append(dict(type='semmae.EMAHook', momentum=.3))
custom_hooks.append(dict(type='semmae.TinyWatch'))
val_evaluator = dict(type='semmae.TinyMean')
val_dataloader['dataset'].update(type='semmae.TinyFixed')
test_dataloader, test_cfg, test_evaluator = val_dataloader, dict(), val_evaluator
default_hooks['checkpoint'].update(interval=2)
'''


@DATASETS.register_module(force=True)
class TinyFixed(TinyData):
    """The same samples in every validation."""

    def __getitem__(self, index):
        return dict(inputs=torch.full((4,), float(index)))


@METRICS.register_module(force=True)
class TinyMean(BaseMetric):
    """The mean of what the model gives."""

    def process(self, data_batch, data_samples):
        self.results += [float(x.double().mean()) for x in data_samples]

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


@HOOKS.register_module(force=True)
class TinyWatch(Hook):
    """Keeps the trained weights of each iteration and each validation's number in the folder."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        torch.save(runner.model.state_dict(), f'{runner.work_dir}/trained_{runner.iter + 1}.pt')

    def after_val_epoch(self, runner, metrics=None):
        with open(f'{runner.work_dir}/means.jsonl', 'a') as file:
            print(json.dumps(metrics), file=file)

    after_test_epoch = after_val_epoch


def path_of(folder):
    return config(folder, VALIDATION, EMA)


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """The work directory of an uninterrupted run of three epochs."""
    folder = tmp_path_factory.mktemp('averaged')
    code, said = trained(folder, path_of(folder))
    assert code == 0, said
    return folder / 'work'


def means(work):
    return [json.loads(line)['mean'] for line in (work / 'means.jsonl').read_text().splitlines()]


def test_a_checkpoint_holds_the_moving_average_and_beside_it_the_trained_weights(averaged):
    content = read_checkpoint(averaged / 'epoch_3.pth')
    steps = [torch.load(averaged / f'trained_{i}.pt') for i in range(1, 19)]
    for name, value in content['state_dict'].items():
        by_hand = steps[0][name]
        for step in steps[1:]:
            by_hand = .7 * by_hand + .3 * step[name]
        torch.testing.assert_close(value, by_hand)
        assert content['ema_state_dict'][f'module.{name}'].equal(steps[-1][name])
        assert not value.equal(steps[-1][name])


def test_validations_and_a_test_of_the_file_measure_the_averaged_weights(averaged, tmp_path):
    path = path_of(tmp_path)
    code = wait(fork(lambda: training.test(path, averaged / 'epoch_3.pth', tmp_path / 'work'),
                     tmp_path / 'said.txt'))
    assert code == 0, (tmp_path / 'said.txt').read_text()
    assert len(means(averaged)) == 3
    assert means(tmp_path / 'work') == means(averaged)[-1:]


@pytest.mark.slow
@pytest.mark.parametrize('number, code, where', [
    (signal.SIGTERM, 143, dict(after=9)), (signal.SIGTERM, 143, dict(after=2, mode='predict')),
    (signal.SIGKILL, -signal.SIGKILL, dict(after=15))])
def test_a_run_stopped_in_a_step_or_a_validation_or_killed_is_bit_identical_when_resumed(
        averaged, tmp_path, number, code, where):
    path = path_of(tmp_path)
    ended, said = trained(tmp_path, path, told(number, **where))
    assert ended == code, said
    again, said = trained(tmp_path, path, resume=True)
    assert again == 0, said
    one, two = (read_checkpoint(work / 'epoch_3.pth') for work in (averaged, tmp_path / 'work'))
    for part in ('state_dict', 'ema_state_dict'):
        assert all(one[part][k].equal(two[part][k]) for k in one[part]), part
    assert means(tmp_path / 'work')[-1] == means(averaged)[-1]
