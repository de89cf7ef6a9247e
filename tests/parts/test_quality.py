"""From a learner's checkpoint to its tables of part quality, and the words of a collapsed run."""
import json
import logging
import re
import types

import numpy as np
import pytest
import torch

from semmae.parts.learner import LearnerSource
from semmae.parts.quality import (
    RANKINGS,
    ROWS,
    AnnotatedTruth,
    LandmarkTruth,
    MaskTruth,
    part_quality,
)
from semmae.reporting.part_tables import part_tables
from semmae.results.results import read_results
from semmae.training.part_health import PartHealthHook

from ..datasets.parts import write_part_image_net, write_pascal_part
from ..tiny import REPO, tool

CONFIG = REPO / 'mm_configs/mini/semmae_parts_mini.py'


def masks(toy):
    return MaskTruth(toy / 'imagenet/val', toy / 'imagenet/part_labels/val', 'toy')


@pytest.mark.slow
def test_every_row_has_its_numbers_and_a_table_holds_all_rows(learner, toy, tmp_path):
    found = part_quality(LearnerSource(CONFIG, learner), masks(toy), tmp_path)
    assert set(found) == set(ROWS)
    records, problems = read_results([tmp_path])
    assert not problems
    assert all(r['reduced'] and r['checkpoint_sha256'] and r['task'] == 'parts' for r in records)
    assert {r['row'] for r in records} == {
        f'parts/{row.replace("learned", "parts")}' for row in ROWS}
    everything, objects, foreground = part_tables(records).values()
    assert 'part learning' in everything.index and len(everything) == len(ROWS) - len(RANKINGS)
    assert 'head attention (3 parts)' in everything.index
    assert {'part learning: highest part map', 'tokens unlike those at the border'} <= set(
        foreground.index) and 'part learning' not in foreground.index
    assert {r['seed'] for r in records} == {5}
    first = next(r for r in records if r['row'] == 'parts/heads' and r['metric'] == 'parts/ARI')
    assert first['value'] == pytest.approx(found['heads']['parts/ARI'])
    assert first['protocol']['grid'] == 12 and first['method'] == 'head attention (3 parts)'


def test_landmarks_are_measured_on_the_test_images_of_cub(learner, toy, tmp_path):
    found = part_quality(LearnerSource(CONFIG, learner), LandmarkTruth(toy / 'CUB_200_2011'),
                         tmp_path, ['voronoi'])
    assert {'landmarks/NMI', 'landmarks/error', 'foreground/AUC'} <= set(found['voronoi'])
    assert found['voronoi']['landmarks/test_images'] == found['voronoi']['foreground/images'] == 16
    records, _ = read_results([tmp_path])
    assert {r['dataset'] for r in records} == {'CUB'} and {r['split'] for r in records} == {'test'}


def test_published_part_annotations_are_the_truth_of_a_test(learner, tmp_path):
    write_part_image_net(tmp_path / 'pin', 'test')
    found = part_quality(LearnerSource(CONFIG, learner),
                         AnnotatedTruth('PartImageNet', tmp_path / 'pin', 'test', 'Fishes'),
                         tmp_path / 'out', ['voronoi'])['voronoi']
    assert found['parts/images'] == found['foreground/images'] == 2
    records, problems = read_results([tmp_path / 'out'])
    assert not problems
    assert {(r['dataset'], r['split'], r['task']) for r in records} == {('Fishes', 'test', 'parts')}
    assert {'parts/ARI', 'parts/pooled_NMI', 'foreground/AUC'} <= {r['metric'] for r in records}
    write_pascal_part(tmp_path / 'voc')
    done = tool('part_quality', CONFIG, learner, '--pascal-part', tmp_path / 'voc', 'train',
                '--rows', 'voronoi', '--work-dir', tmp_path / 'tool')
    assert done.returncode == 0, done
    records, _ = read_results([tmp_path / 'tool'])
    assert {(r['dataset'], r['split']) for r in records} == {('PascalPart', 'train')}
    for more, said in (([], 'expected the annotations of PartImageNet'),
                       (['--background', '40'], 'part annotations have the background 0')):
        done = tool('part_quality', CONFIG, learner, '--part-image-net', tmp_path / 'voc', 'train',
                    '--work-dir', tmp_path / 'tool', *more)
        assert done.returncode == 2 and said in done.stderr


def test_an_unknown_row_and_a_config_of_another_model_are_refused_before_anything_runs(
        learner, toy, tmp_path):
    for config, rows, said in (
            (CONFIG, ['slots'], r"unknown rows \['slots'\], expected some of learned"),
            (REPO / 'mm_configs/mini/mae_p16_mini.py', ['learned'], 'expected a part learner')):
        with pytest.raises(ValueError, match=said):
            part_quality(LearnerSource(config, learner), masks(toy), tmp_path / 'x', rows)
    assert not any((tmp_path / 'x').rglob('*'))


# ------------------------------------------------------------------ health
def epoch(tmp_path, coverage, cosine=.5, largest=.5, epoch=0):
    """The hook after an epoch of one step with these signs, and what was logged."""
    hook, said = PartHealthHook(), []
    logger = logging.Logger('test')
    handler = logging.Handler()
    handler.emit = lambda record: said.append((record.levelname, record.getMessage()))
    logger.addHandler(handler)
    model = types.SimpleNamespace(coverage=torch.tensor(coverage))
    runner = types.SimpleNamespace(model=model, logger=logger, work_dir=tmp_path, epoch=epoch)
    hook.before_train_epoch(runner)
    signs = dict.fromkeys(hook.SIGNS, torch.tensor(.5))
    signs.update(off_diagonal_cosine=torch.tensor(cosine), largest_share=torch.tensor(largest))
    for _ in range(2):
        hook.after_train_iter(runner, 0, outputs=signs)
    hook.after_train_epoch(runner)
    hook.after_train(runner)
    return hook, said


@pytest.mark.parametrize('signs, words', [
    (dict(coverage=[.5, .5, 0, 0]), r'2 of 4 parts are never seen \(\[2, 3\]\)'),
    (dict(coverage=[.25] * 4, cosine=.999), 'maps are all alike'),
    (dict(coverage=[.97, .01, .01, .01], largest=.97), '97% of an image')])
def test_a_collapsed_run_ends_with_a_clear_statement(tmp_path, signs, words):
    hook, said = epoch(tmp_path, **signs)
    level, last = said[-1]
    assert level == 'ERROR' and 'COLLAPSED' in last
    assert len(hook.health['collapsed']) == 1
    assert re.search(words, last)
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(None, checkpoint)
    assert checkpoint['meta']['part_health']['collapsed']


def test_a_sound_run_says_its_coverage_and_no_more_and_a_repeated_epoch_counts_once(tmp_path):
    for number in (0, 1, 1):
        _, said = epoch(tmp_path, [.4, .3, .2, .1], epoch=number)
        assert said == [('INFO', 'parts cover 40% 30% 20% 10%')]
    lines = [json.loads(x) for x in (tmp_path / 'part_health.jsonl').read_text().splitlines()]
    assert [x['epoch'] for x in lines] == [1, 2]
    assert np.allclose(lines[0]['coverage'], [.4, .3, .2, .1])
