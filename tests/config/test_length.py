"""Schedules follow the length of a training, or the run is refused with the line that fixes it."""
import math
import re
import shlex

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from semmae.commands.train import parse
from semmae.config.length import length_of, require_schedules
from semmae.config.options import config_of, read_config

from ..tiny import REPO, config, trained

LEAVES = sorted((REPO / 'mm_configs').glob('[!_]*.py')) + sorted(
    (REPO / 'mm_configs').glob('[!_]*/*.py'))
MINI = REPO / 'mm_configs/mini/mae_p16_mini.py'


def rates(cfg, epoch_length=5):
    """The learning rate of each iteration of a training, of 1 at its peak."""
    key, length = length_of(cfg)
    by_epoch = key.endswith('epochs')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    schedules = []
    for schedule in cfg.param_scheduler:
        schedule = dict(schedule)
        cls = PARAM_SCHEDULERS.get(schedule.pop('type'))
        if schedule.pop('convert_to_iter_based', False):
            schedules.append(cls.build_iter_from_epoch(
                optimizer, epoch_length=epoch_length, **schedule))
        else:
            schedules.append(cls(optimizer, **schedule))
    found = []
    for _ in range(length * epoch_length if by_epoch else length):
        optimizer.step()
        found.append(optimizer.param_groups[0]['lr'])
        for schedule in schedules:
            schedule.step()
    return found


@pytest.mark.parametrize('path', LEAVES, ids=lambda p: p.stem)
def test_every_shipped_schedule_ends_with_its_training(path):
    require_schedules(config_of(path))


@pytest.mark.parametrize('name, options', [
    ('mini/mae_p16_mini.py', {'train_cfg.max_epochs': n}) for n in (1, 2, 3, 8, 19, 100)] + [
    ('semmae_pretrain.py', {'train_cfg.max_epochs': n}) for n in (2, 20, 100, 1600)] + [
    ('mini/semmae_upernet_ade20k_mini.py', {'train_cfg.max_iters': n}) for n in (2, 60, 480)] + [
    ('mini/semmae_linseg_ade20k_mini.py', {'train_cfg.max_iters': 100}),
    ('mini/semmae_cub_mini.py', {'train_cfg.max_epochs': 5})])
def test_schedules_follow_a_length_on_the_command_line(name, options):
    cfg = read_config(REPO / 'mm_configs' / name, options)
    require_schedules(cfg)
    found = rates(cfg)
    length = len(found)
    if length > 5:
        assert max(found) > .9 and found.index(max(found)) < .6 * length
        assert found[-1] < .35 * max(found)
    # Warm-up keeps its share of the run.
    if options.get('train_cfg.max_epochs') in (100, 1600):
        before = rates(read_config(REPO / 'mm_configs' / name))
        share = before.index(max(before)) / len(before)
        assert math.isclose(found.index(max(found)) / length, share, abs_tol=.02)


def test_a_schedule_that_an_option_sets_is_taken_as_given():
    cfg = read_config(MINI, {'train_cfg.max_epochs': 7, 'param_scheduler.1.end': 7,
                             'param_scheduler.1.T_max': 5})
    assert cfg.param_scheduler[0].end == 2 and cfg.param_scheduler[1].begin == 2
    require_schedules(cfg)


@pytest.mark.parametrize('change', [
    {'train_cfg.max_epochs': 19, 'param_scheduler.0.end': 2},     # the last rate would be kept
    {'train_cfg.max_epochs': 8, 'param_scheduler.0.end': 2},      # the rate would not come down
    {'param_scheduler.1.T_max': 30}, {'param_scheduler.1.end': 32}])
def test_a_schedule_of_another_length_is_refused_with_a_line_that_fixes_it(change):
    with pytest.raises(ValueError, match='the learning rate does not follow') as error:
        require_schedules(read_config(MINI, change))
    lines = re.findall(r'--cfg-options .*?(?= or with |$)', str(error.value))
    assert lines
    for line in lines:
        options = parse([str(MINI), *shlex.split(line)]).cfg_options
        require_schedules(read_config(MINI, {**change, **options}))


def test_a_config_file_whose_schedule_is_too_short_ends_in_one_line_and_exit_2(tmp_path):
    path = config(tmp_path, "param_scheduler = [dict(type='CosineAnnealingLR', T_max=2, end=2)]")
    code, said = trained(tmp_path, path)
    assert code == 2 and 'train_cfg.max_epochs is 3' in said
    assert '--cfg-options train_cfg.max_epochs=2' in said and 'param_scheduler.0.T_max=3' in said


def test_schedules_of_a_base_follow_the_length_of_a_config_file(tmp_path):
    path = tmp_path / 'short.py'
    path.write_text(f"_base_ = ['{MINI}']\ntrain_cfg = dict(max_epochs=8)\n")
    cfg = read_config(path)
    assert [s.end for s in cfg.param_scheduler] == [1, 8] and cfg.param_scheduler[1].T_max == 7
    again = read_config(path, {'train_cfg.max_epochs': 4})
    assert again.param_scheduler[1].end == 4
    own = "param_scheduler = [dict(type='CosineAnnealingLR', T_max=5, end=5)]\n"
    path.write_text(path.read_text() + own)
    with pytest.raises(ValueError, match='the learning rate does not follow'):
        require_schedules(read_config(path))


def test_a_schedule_with_a_constant_end_is_accepted():
    cfg = Config.fromfile(MINI)
    cfg.train_cfg.max_epochs = 19
    with pytest.raises(ValueError):
        require_schedules(cfg)
    cfg.param_scheduler.append(dict(type='ConstantLR', factor=1., begin=16, end=19))
    require_schedules(cfg)
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[10, 25], by_epoch=True)]
    with pytest.raises(ValueError, match='milestones'):
        require_schedules(cfg)
