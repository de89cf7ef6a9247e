"""A suite runs in order, skips what is done, and says what failed."""
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semmae.config.lookup import numbered
from semmae.models import ViT
from semmae.reporting.tables import OWN, build_tables, load_numbers
from semmae.suites.catalogue import MINI, PAPER, SUITES
from semmae.suites.engine import execute, messages
from semmae.suites.rows import Train
from semmae.suites.schedule import plan, wanted

from .conftest import command, little, overridden, quiet, writer


def test_needed_rows_come_first_and_only_what_is_needed():
    rows = {r.id: r for r in MINI.rows}
    assert wanted(rows, ['linprobe/semmae_p16']) == [
        'data', 'mae_p16', 'parts', 'store_8', 'semmae_p16', 'linprobe/semmae_p16']


def test_runs_make_their_products_and_are_then_skipped(tmp_path):
    suite = little(writer('a'), writer('b', ('a',), '{a}'))
    execute(plan(suite, tmp_path), tmp_path, jobs=2, console=quiet())
    a, b = tmp_path / 'seed0/a/out', tmp_path / 'seed0/b/out'
    assert b.read_text() == str(a)
    times = [p.stat().st_mtime_ns for p in (a, b)]
    execute(plan(suite, tmp_path), tmp_path, console=quiet())
    assert [p.stat().st_mtime_ns for p in (a, b)] == times


def test_a_run_that_many_rows_need_runs_alone(tmp_path):
    log = tmp_path / 'log'
    code = ('import sys, time\nlog = open(sys.argv[2], "a")\nprint("begin", sys.argv[3], file=log, '
            'flush=True)\ntime.sleep(.2)\nprint("end", sys.argv[3], file=log, flush=True)\n'
            'open(sys.argv[1], "w").close()')
    rows = [command(name, code, '{work_dir}/out', str(log), name, is_alone=name == 'alone')
            for name in ('a', 'alone', 'b', 'c')]
    execute(plan(little(*rows), tmp_path), tmp_path, jobs=2, console=quiet())
    lines = log.read_text().split('\n')
    at = lines.index('begin alone')
    assert lines[at + 1] == 'end alone'
    assert sum(line.startswith('begin') for line in lines) == 4


@pytest.mark.parametrize('code, said', [
    ('raise SystemExit("out of cheese")', '(?s)failed bad .exit 1.*out of cheese'),
    ('pass', 'failed bad .exit 0.* is missing')])
def test_a_failure_or_a_missing_product_stops_the_suite(tmp_path, code, said):
    suite = little(command('bad', code), command('after', 'pass', needs=('bad',)))
    console = quiet()
    with pytest.raises(RuntimeError, match='1 failed: bad; not run: after. Read'):
        execute(plan(suite, tmp_path), tmp_path, console=console)
    assert re.search(said, console.file.getvalue())
    assert not (tmp_path / 'seed0/after').exists()


def test_a_message_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / 'said.jsonl'
    path.write_text('{"a": 1}\n{"a"')
    with path.open() as said:
        assert list(messages(said)) == [{'a': 1}]
        with path.open('a') as more:
            more.write(': 2}\n')
        assert list(messages(said)) == [{'a': 2}]


def test_rows_that_need_each_other_are_refused(tmp_path):
    rows = [command('a', 'pass', needs=('b',)), command('b', 'pass', needs=('a',))]
    with pytest.raises(RuntimeError, match='Cyclic dependency'):
        execute(plan(little(*rows), tmp_path), tmp_path, console=quiet())


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


def test_every_cell_has_a_row_or_a_reason_why_not():
    rows = {r.id for r in PAPER.rows}
    for cell in load_numbers()['row']:
        recipe = cell.split('/')[-1]
        assert [cell in rows, recipe in PAPER.foreign, cell in PAPER.unavailable].count(True) == 1
        assert (cell in rows) == bool(OWN.match(recipe)) or cell == 'finetune/vit'


@pytest.mark.parametrize('name', SUITES)
def test_every_config_of_a_suite_exists_and_needed_rows_come_first(name):
    before = set()
    for row in SUITES[name].rows:
        assert Path(getattr(row, 'config', '.')).exists(), row
        assert before.issuperset(row.needs), 'a row comes after those that it needs'
        before.add(row.id)


def test_a_step_of_a_list_is_named_by_its_type():
    node = dict(pipeline=[dict(type='mmseg.Resize'), dict(type='A'), dict(type='A')])
    assert numbered(node, 'pipeline.Resize.scale') == 'pipeline.0.scale'
    for name, count in (('A', 2), ('B', 0)):
        with pytest.raises(ValueError, match=f'got {count} steps of type {name}, expected 1'):
            numbered(node, f'pipeline.{name}.scale')


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
    cells, planned = load_numbers(), 0
    for table, frame in build_tables([]).items():
        for cell, text in zip(cells[cells['table'] == table].to_dict('records'),
                              frame['to fill'], strict=True):
            if not text:
                assert cell['row'] in PAPER.unavailable
                continue
            *_, row = text.removesuffix(' --checkpoint FILE').split()
            file = (foreign(tmp_path, int(cell['patch_size']))
                    if text.endswith('--checkpoint FILE') else None)
            assert plan(PAPER, tmp_path, [row], file)[-1].id == row == cell['row']
            planned += 1
    assert planned == len(cells) - 2


def test_paths_that_overrides_cannot_carry_are_refused(tmp_path):
    with pytest.raises(ValueError, match='spaces and commas'):
        plan(PAPER, tmp_path / 'my runs')


@pytest.mark.parametrize('row, gpus, processes, steps', [
    ('semmae_p8', 16, 16, 1), ('semmae_p8', 8, 8, 2), ('semmae_p8', 6, 4, 4),
    ('semmae_p8', 1, 1, 16), ('ade20k/semmae_p16', 64, 8, 1)])
def test_fewer_gpus_accumulate_to_the_global_batch_and_superfluous_ones_stay_idle(
        tmp_path, row, gpus, processes, steps):
    run = plan(PAPER, tmp_path, [row], gpus=gpus)[-1]
    assert (run.processes, run.steps) == (processes, steps)
    assert ('--keep-batch' in run.command) == (steps > 1)


def test_a_checkpoint_that_fits_no_task_never_becomes_all_rows(tmp_path):
    with pytest.raises(ValueError, match='patches of 14 pixels, .*expected one of 8, 16'):
        plan(PAPER, tmp_path, checkpoint=foreign(tmp_path, 14))


@pytest.mark.parametrize('nothing', [dict(only=[]), dict(seeds=())])
def test_an_empty_selection_is_refused(nothing, tmp_path):
    with pytest.raises(ValueError, match='nothing to run'):
        plan(PAPER, tmp_path, **nothing)
    assert len(plan(PAPER, tmp_path)) > 100
    assert len(plan(PAPER, tmp_path, ['parts', 'parts'])) == 1


# ------------------------------------------------------------------ how positions are resized
@pytest.mark.parametrize('name, only, key, is_set', [
    ('dino_vitbase16_pretrain', None, '', True), ('dino_deitsmall16_pretrain', None, '', True),
    ('weights', 'ade20k/dino', '', True), ('weights', 'ade20k/ibot', '', True),
    ('weights', 'ade20k/attmask', '', True), ('ibot_vitb_16', None, '', True),
    ('weights', 'ade20k/x', 'teacher', True), ('weights', 'ade20k/x', 'model', False),
    ('mae_pretrain_vit_base', 'finetune/x', '', False), ('dinov2_vitb16', 'finetune/x', '', False),
    ('moco', 'finetune/x', '', False), ('beit_base', 'finetune/x', '', False)])
def test_names_and_content_of_a_file_tell_how_its_positions_are_resized(
        name, only, key, is_set, tmp_path):
    path = foreign(tmp_path, 16).rename(tmp_path / f'{name}.pth')
    content = torch.load(path)['model']
    torch.save({key: content} if key else content, path)  # DINO publishes it without a key
    runs = plan(PAPER, tmp_path, only and [only], path)
    assert runs
    assert {'model.backbone.interpolate_offset=0.1' in run.command for run in runs} == {is_set}


def test_an_unknown_way_to_resize_positions_has_to_be_given(tmp_path):
    path = foreign(tmp_path, 16).rename(tmp_path / 'weights.pth')
    torch.save(torch.load(path)['model'] | {'pos_embed': torch.zeros(1, 197, 8)}, path)
    with pytest.raises(ValueError, match='--interpolate-offset 0.1 for DINO'):
        plan(PAPER, tmp_path, ['ade20k/mine'], path)
    for offset, is_set in ((.1, True), (0., False)):
        (run,) = plan(PAPER, tmp_path, ['ade20k/mine'], path, offset=offset)
        assert ('model.backbone.interpolate_offset=0.1' in run.command) == is_set
    plan(PAPER, tmp_path, ['finetune/mine'], path)  # at 224 pixels nothing is resized


def test_mixed_precision_reaches_the_rows_whose_config_has_it_and_part_stores(tmp_path):
    suite = SUITES['tiny_imagenet']
    asked = {run.id: run.command for run in plan(replace(suite, amp=True), tmp_path)}
    has_it = {name for name, words in asked.items() if '--amp' in words}
    assert {'mae_p16', 'semmae_p16', 'finetune/mae_p16', 'store_8'} <= has_it
    assert 'probes/mae_p16' not in has_it  # the optimiser of its config takes no step
    assert not any('--amp' in run.command for run in plan(suite, tmp_path))


def test_compilation_reaches_the_rows_that_train(tmp_path):
    suite = SUITES['tiny_imagenet']
    asked = {run.id: run.command for run in plan(replace(suite, compile=True), tmp_path)}
    has_it = {name for name, words in asked.items() if 'compile=True' in words}
    assert {'parts', 'mae_p16', 'semmae_p16', 'finetune/mae_p16'} <= has_it
    assert not has_it & {'probes/mae_p16', 'store_8'}
    assert not any('compile=True' in run.command for run in plan(suite, tmp_path))


def test_optional_rows_run_if_they_are_named_or_needed(tmp_path):
    suite = SUITES['tiny_imagenet']
    planned = [run.id for run in plan(suite, tmp_path)]
    assert 'semmae_p16' in planned and 'semmae_p16_kmeans' not in planned
    named = [run.id for run in plan(suite, tmp_path, ['probes/semmae_p16_kmeans'])]
    assert named == ['parts', 'store_8_kmeans', 'semmae_p16_kmeans', 'probes/semmae_p16_kmeans']


# ------------------------------------------------------------------ the quick start
def test_the_quick_suite_has_the_rows_of_mini_and_is_shorter():
    mini, quick = SUITES['mini'].rows, SUITES['quick'].rows
    assert [(type(r), r.id, r.needs) for r in quick] == [(type(r), r.id, r.needs) for r in mini]
    for ours, theirs in zip(quick, mini):
        if isinstance(ours, Train):
            assert ours.config == theirs.config
            assert theirs.options.items() <= ours.options.items()
    for ours, theirs in zip(plan(SUITES['quick'], 'w'), plan(SUITES['mini'], 'w')):
        if isinstance(ours.row, Train):
            assert 0 < ours.length < theirs.length
            assert ours.product.suffix != '.pth' or ours.product.stem == f'epoch_{ours.length}'
