"""What a line of results.jsonl says of the choice of its number."""
from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from mmengine.hooks import CheckpointHook

from semmae.recording.line import own_checkpoint, selection
from semmae.results.protocol import fingerprint


def config(result=None, **train_cfg):
    return ConfigDict(result=result or {}, train_cfg=train_cfg)


@pytest.mark.parametrize('checkpoint', ['work_dirs/a/epoch_100.pth', None])
def test_the_last_checkpoint_was_not_chosen(checkpoint):
    assert selection(config(max_epochs=100, val_interval=10), checkpoint) == {}


@pytest.mark.parametrize('train_cfg, text', [
    (dict(max_epochs=100, val_interval=10), 'best of 10 validations'),
    (dict(max_epochs=25, val_interval=10), 'best of 3 validations'),  # the last one always runs
    (dict(max_iters=160000, val_interval=16000), 'best of 10 validations'),
    (dict(max_epochs=5), 'best of 5 validations'), ({}, 'best of several validations')])
def test_a_file_of_save_best_is_the_best_of_its_validations(train_cfg, text):
    found = selection(config(**train_cfg), 'work_dirs/a/best_accuracy_top1_epoch_7.pth')
    assert found == dict(selection=text)


def test_settings_that_were_tried_are_counted_and_are_another_protocol():
    found = selection(config(dict(selected_from=4), max_epochs=2), 'best_mIoU_iter_9.pth')
    assert found == dict(selection='best of 4 settings, best of 2 validations')
    assert fingerprint(dict(lr=1) | found) != fingerprint(dict(lr=1))


@pytest.mark.parametrize('saved, resumed, found', [
    ('w/epoch_9.pth', 'w/epoch_7.pth', 'w/epoch_9.pth'), (None, 'w/epoch_9.pth', 'w/epoch_9.pth'),
    ('w/epoch_1.pth', None, 'w/epoch_1.pth'), (None, None, None)])
def test_a_line_names_the_file_that_its_own_run_saved(saved, resumed, found):
    hook = CheckpointHook()
    hook.last_ckpt = saved
    runner = SimpleNamespace(hooks=[hook], cfg=ConfigDict(load_from=resumed))
    assert own_checkpoint(runner) == found
    runner.hooks = []  # nothing is saved, whatever the weights began with
    assert own_checkpoint(runner) is None
