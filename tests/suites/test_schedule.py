"""A suite runs in order, skips what is done, and says what failed."""
import io
import sys

import pytest
import torch
from rich.console import Console

from benchmarks.suite import MINI, PAPER, SUITES, Row, Suite
from semmae.models import ViT
from semmae.reporting.tables import OWN, build_tables, load_numbers
from semmae.suites.schedule import execute, plan, share, wanted
from semmae.training.run import read_config
from tools.train import parse

WRITE = 'import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(sys.argv[2])'


def little(*rows):
    return Suite(rows=rows, tasks={}, images='images')


def writer(name, needs=(), text='x'):
    return Row(name, 'out.txt', needs=needs, command=('-c', WRITE, '{work_dir}/out.txt', text))


def quiet():
    return Console(file=io.StringIO())


def test_needed_rows_come_first_and_only_what_is_needed():
    rows = {r.id: r for r in MINI.rows}
    assert wanted(rows, ['linprobe/semmae_p16']) == [
        'data', 'mae_p16', 'parts', 'store_8', 'semmae_p16', 'linprobe/semmae_p16']


def test_runs_make_their_products_and_are_then_skipped(tmp_path):
    suite = little(writer('a'), writer('b', ('a',), '{a}'))
    execute(plan(suite, tmp_path), jobs=2, console=quiet())
    a, b = tmp_path / 'seed0/a/out.txt', tmp_path / 'seed0/b/out.txt'
    assert b.read_text() == str(a)
    times = [p.stat().st_mtime_ns for p in (a, b)]
    execute(plan(suite, tmp_path), console=quiet())
    assert [p.stat().st_mtime_ns for p in (a, b)] == times


def test_a_run_that_much_waits_for_runs_alone(tmp_path):
    log = tmp_path / 'log'
    said = ('import sys, time\nlog = open(sys.argv[2], "a")\nprint("begin", sys.argv[3], file=log, '
            'flush=True)\ntime.sleep(.4)\nprint("end", sys.argv[3], file=log, flush=True)\n'
            'open(sys.argv[1], "w").close()')
    rows = [Row(name, 'out', is_alone=name == 'alone',
                command=('-c', said, '{work_dir}/out', str(log), name))
            for name in ('a', 'alone', 'b', 'c')]
    execute(plan(little(*rows), tmp_path), jobs=2, console=quiet())
    lines = log.read_text().split('\n')
    at = lines.index('begin alone')
    assert lines[at + 1] == 'end alone'
    assert sum(line.startswith('begin') for line in lines) == 4


def test_a_failure_stops_the_suite_and_shows_the_end_of_its_log(tmp_path):
    bad = Row('bad', 'never.txt', command=('-c', 'raise SystemExit("out of cheese")'))
    suite = little(bad, Row('after', 'x', needs=('bad',), command=('-c', 'pass')))
    with pytest.raises(RuntimeError, match='(?s)bad failed .exit 1.*out of cheese'):
        execute(plan(suite, tmp_path), console=quiet())
    assert not (tmp_path / 'seed0/after').exists()


def test_a_run_that_leaves_no_product_is_a_failure(tmp_path):
    with pytest.raises(RuntimeError, match='is missing'):
        execute(plan(little(Row('a', 'out', command=('-c', 'pass'))), tmp_path), console=quiet())


def test_seeds_have_work_dirs_of_their_own_and_share_the_data(tmp_path):
    runs = plan(MINI, tmp_path, only=['linprobe/scratch'], seeds=(0, 1))
    assert [r.id for r in runs] == ['data', 'linprobe/scratch', 'linprobe/scratch']
    assert '--seed 1' in ' '.join(runs[2].command) and 'seed1' in str(runs[2].work_dir)


def test_unknown_and_foreign_rows_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match='no row .linprobe/typo.; it has: '):
        plan(PAPER, tmp_path, only=['linprobe/typo'])
    with pytest.raises(ValueError, match='--checkpoint FILE'):
        plan(PAPER, tmp_path, only=['finetune/beit'])


def test_several_gpus_start_the_launcher(tmp_path):
    runs = plan(PAPER, tmp_path, only=['mae_p16'], gpus=8)
    assert runs[0].command[:4] == ['bash', 'tools/dist_train.sh',
                                   'mm_configs/ablations/mae_vit-base-p16.py', '8']


def test_every_cell_is_a_row_of_ours_or_foreign_or_said_to_be_unavailable():
    rows = {r.id for r in PAPER.rows}
    for cell in load_numbers()['row']:
        recipe = cell.split('/')[-1]
        assert [cell in rows, recipe in PAPER.foreign, cell in PAPER.unavailable].count(True) == 1
        assert (cell in rows) == bool(OWN.match(recipe)) or cell == 'finetune/vit'


@pytest.mark.parametrize('name', SUITES)
def test_every_config_of_a_suite_exists(name):
    from pathlib import Path
    for row in SUITES[name].rows:
        assert not row.config or Path(row.config).is_file(), row
        assert set(row.needs) <= {r.id for r in SUITES[name].rows}


def foreign(tmp_path, patch):
    path = tmp_path / 'vit.pth'
    torch.save({'model': {'patch_embed.proj.weight': torch.zeros(8, 3, patch, patch),
                          'blocks.0.norm1.weight': torch.ones(8)}}, path)
    return path


def test_a_checkpoint_from_anywhere_gets_the_tasks_of_its_patch_size(tmp_path):
    runs = plan(PAPER, tmp_path, checkpoint=foreign(tmp_path, 16))
    assert [r.id for r in runs] == [f'{task}/vit' for task in PAPER.tasks]
    assert 'result.recipe=vit' in ' '.join(runs[0].command)
    assert runs[0].command[0] == sys.executable
    small = plan(PAPER, tmp_path, checkpoint=foreign(tmp_path, 8))
    assert [r.id for r in small if '/' in r.id] == [
        f'{task}/vit' for task, configs in PAPER.tasks.items() if 8 in configs]
    assert {'store_28', 'store_28_val'} <= {r.id for r in small}, 'the 8x8 probe reads parts'


def test_only_names_the_recipe_of_a_checkpoint_and_nothing_else_runs(tmp_path):
    (run,) = plan(PAPER, tmp_path, ['finetune/ibot'], foreign(tmp_path, 16))
    assert run.id == 'finetune/ibot' and 'result.recipe=ibot' in run.command
    (run,) = plan(PAPER, tmp_path, ['finetune/simmim_p32'], foreign(tmp_path, 32))
    assert 'model.backbone.patch_size=32' in run.command


@pytest.mark.parametrize('arch, width, layers', [('deit-small', 384, 12), ('large', 1024, 24)])
def test_a_vit_of_another_size_brings_its_sizes_along(tmp_path, arch, width, layers):
    path = tmp_path / 'vit.pth'
    torch.save({'model': {'patch_embed.proj.weight': torch.zeros(width, 3, 16, 16)} | {
        f'blocks.{i}.norm1.weight': torch.ones(width) for i in range(layers)}}, path)
    runs = {r.id: r for r in plan(PAPER, tmp_path, checkpoint=path)}
    for task, expected in {
            'linprobe/vit': [f'model.neck.input_features={width}',
                             f'model.head.in_channels={width}'],
            'finetune/vit': [f'model.head.in_channels={width}'],
            'ade20k/vit': [f'model.decode_head.in_channels=[{width},{width},{width},{width}]',
                           f'model.neck.embed_dim={width}']}.items():
        assert {f'model.backbone.arch={arch}', *expected} <= set(runs[task].command)
        cfg = overridden(runs[task].command)
        known = ViT.arch_zoo[cfg.model.backbone.arch]
        assert (known['embed_dims'], known['num_layers']) == (width, layers)
        assert max(cfg.model.backbone.get('out_indices', [-1])) in (-1, layers - 1)
    assert not any('neck' in part for part in runs['finetune/vit'].command)


def overridden(command):
    """The config that a command trains, read as tools/train.py does."""
    args = parse(command[command.index('tools/train.py') + 1:])
    return read_config(args.config, args.cfg_options)


def test_two_files_of_one_name_have_work_dirs_of_their_own(tmp_path):
    homes = {plan(PAPER, tmp_path, ['finetune/x'], foreign(tmp_path, p))[0].work_dir
             for p in (16, 32)}
    assert len(homes) == 2


def test_a_checkpoint_that_names_itself_is_not_renamed(tmp_path):
    torch.save(dict(meta=dict(semmae=dict(id='semmae_p16')), state_dict={
        'backbone.patch_embed.projection.weight': torch.zeros(8, 3, 16, 16)}), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match="says that it is 'semmae_p16'"):
        plan(PAPER, tmp_path, ['finetune/mae_1600e'], tmp_path / 'x.pth')


def test_the_command_of_every_empty_cell_plans_exactly_its_row(tmp_path):
    cells, commands = load_numbers(), []
    for table, frame in build_tables([]).items():
        for cell, command in zip(cells[cells['table'] == table].to_dict('records'),
                                 frame['to fill'], strict=True):
            if not command:
                assert cell['row'] in PAPER.unavailable
                continue
            *_, row = command.removesuffix(' --checkpoint FILE').split()
            file = (foreign(tmp_path, int(cell['patch_size']))
                    if command.endswith('--checkpoint FILE') else None)
            assert plan(PAPER, tmp_path, [row], file)[-1].id == row == cell['row']
            commands.append(command)
    assert len(commands) == len(cells) - 2


def test_paths_that_overrides_cannot_carry_are_refused(tmp_path):
    with pytest.raises(ValueError, match='spaces and commas'):
        plan(PAPER, tmp_path / 'my runs')


@pytest.mark.parametrize('gpus, expected', [(16, (16, 1)), (8, (8, 2)), (6, (4, 4)), (1, (1, 16))])
def test_fewer_gpus_accumulate_to_the_global_batch(gpus, expected):
    assert share('mm_configs/semmae_pretrain.py', gpus) == expected


def test_a_plan_for_fewer_gpus_keeps_the_batch(tmp_path):
    assert '--keep-batch' in plan(PAPER, tmp_path, ['mae_p16'], gpus=4)[-1].command
    assert '--keep-batch' not in plan(PAPER, tmp_path, ['mae_p16'], gpus=16)[-1].command


def test_more_gpus_than_the_batch_divides_into_stay_idle():
    assert share('mm_configs/semmae_upernet_ade20k.py', 64) == (8, 1)


def test_files_of_dino_and_ibot_have_their_positions_resized_as_they_do(tmp_path):
    path = foreign(tmp_path, 16)
    content = torch.load(path)
    option = 'model.backbone.interpolate_offset=0.1'
    for key, expected in (('model', False), ('teacher', True)):
        torch.save({key: content['model']}, path)
        (run,) = plan(PAPER, tmp_path, ['ade20k/x'], path)
        assert (option in run.command) == expected


def test_a_checkpoint_that_fits_no_task_never_becomes_all_rows(tmp_path):
    with pytest.raises(ValueError, match='patches of 14 pixels, .*expected one of 8, 16'):
        plan(PAPER, tmp_path, checkpoint=foreign(tmp_path, 14))


@pytest.mark.parametrize('nothing', [dict(only=[]), dict(seeds=())])
def test_an_empty_selection_is_refused(nothing, tmp_path):
    with pytest.raises(ValueError, match='nothing to run'):
        plan(PAPER, tmp_path, **nothing)
    assert len(plan(PAPER, tmp_path)) > 100
    assert len(plan(PAPER, tmp_path, ['parts', 'parts'])) == 1


OFFSET = 'model.backbone.interpolate_offset=0.1'


@pytest.mark.parametrize('name, only', [
    ('dino_vitbase16_pretrain', []), ('dino_deitsmall16_pretrain', []),
    ('weights', ['ade20k/dino']), ('weights', ['ade20k/ibot']),
    ('weights', ['ade20k/attmask']), ('ibot_vitb_16', [])])
def test_an_extracted_backbone_of_dino_gets_its_own_resizing_of_positions(name, only, tmp_path):
    path = foreign(tmp_path, 16).rename(tmp_path / f'{name}.pth')
    torch.save(torch.load(path)['model'], path)  # as DINO publishes it
    runs = plan(PAPER, tmp_path, only or None, path)
    assert runs and all(OFFSET in run.command for run in runs)


@pytest.mark.parametrize('name', ['mae_pretrain_vit_base', 'dinov2_vitb16', 'moco', 'beit_base'])
def test_other_weights_are_resized_to_the_new_size(name, tmp_path):
    path = foreign(tmp_path, 16).rename(tmp_path / f'{name}.pth')
    runs = plan(PAPER, tmp_path, ['finetune/x'], path)
    assert runs and not any(OFFSET in run.command for run in runs)


def test_weights_of_which_nothing_tells_need_a_word_where_positions_are_resized(tmp_path):
    path = foreign(tmp_path, 16).rename(tmp_path / 'weights.pth')
    content = torch.load(path)['model']
    torch.save(content | {'pos_embed': torch.zeros(1, 197, 8)}, path)
    with pytest.raises(ValueError, match='--interpolate-offset 0.1 for DINO'):
        plan(PAPER, tmp_path, ['ade20k/mine'], path)
    for offset, is_set in ((.1, True), (0., False)):
        (run,) = plan(PAPER, tmp_path, ['ade20k/mine'], path, offset=offset)
        assert (OFFSET in run.command) == is_set
    plan(PAPER, tmp_path, ['finetune/mine'], path)  # at 224 pixels nothing is resized
