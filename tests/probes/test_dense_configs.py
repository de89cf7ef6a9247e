"""Every config of frozen probes loads, builds, runs at toy size and leaves a line for each probe.

Only sizes and paths are replaced. Data readers, tasks, probes, evaluator and the result lines are
those of the file. The fine-tuning configs of mm_configs/dense are in tests/test_configs.py.
"""
import math
from pathlib import Path

import pytest

from semmae.results.results import read_results
from semmae.training import run as training

from ..test_configs import PROBES
from .dense_configs import shrink_probes

NAMES = dict(classification={'knn', 'linear', 'attentive', 'logistic', 'linear_10pct'},
             imagenet={'knn', 'linear', 'linear_10pct', 'linear_1pct'},
             tiny_imagenet={'knn', 'linear', 'linear_10pct'}, nyu={'depth_linear'},
             segmentation={'seg_linear', 'seg_logistic', 'seg_knn', 'seg_hummingbird'})


@pytest.mark.slow
@pytest.mark.parametrize('leaf', PROBES)
def test_each_probe_of_a_config_leaves_its_line(leaf, toy, tmp_path, monkeypatch):
    cfg = shrink_probes(leaf, toy, tmp_path)
    monkeypatch.setattr(training, 'read_config', lambda *_: cfg)
    training.train(leaf, work_dir=tmp_path / 'run', seed=0)
    lines, problems = read_results([tmp_path / 'run'])
    assert not problems
    name = Path(leaf).stem.removeprefix('dense_')
    expected = NAMES.get(name) or NAMES[cfg.model.task.kind]
    metrics = cfg.result.metric if isinstance(cfg.result.metric, list) else [cfg.result.metric]
    assert {(line['task'], line['metric']) for line in lines} == {
        (probe, metric) for probe in expected for metric in metrics}
    assert len(lines) == len(expected) * len(metrics)
    for line in lines:
        assert line['tables'] == ['dense'] and line['dataset'] == cfg.result.dataset
        assert math.isfinite(line['value']) and line['reduced'] and line['chosen']['tried'] >= 1
        assert line['row'] == f'{line["task"]}/{line["recipe"]}'
        if cfg.model.task.kind == 'depth':
            assert line['predictions'] is None and line['unit'] == dict(rmse='m').get(
                line['metric'], '')
        else:
            assert Path(tmp_path / 'run', line['predictions']).is_file() and line['unit'] == '%'
