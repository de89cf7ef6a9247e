"""The smallest difference that an experiment can find."""
import numpy as np
import pytest
from scipy import stats

from benchmarks.detectable import table
from semmae.results.statistics import detectable_difference


def test_experiments_find_it_as_often_as_the_power_says():
    random, runs = np.random.default_rng(0), 4
    shift = detectable_difference(2., runs, power=.8)
    a, b = random.normal(size=(2, 4000, runs)) * 2
    found = stats.ttest_ind(a + shift, b, axis=1).pvalue < .05
    assert abs(np.mean(found) - .8) < .03


def test_it_is_that_of_cohens_tables():
    assert detectable_difference(1., 64) == pytest.approx(.5, abs=.002)  # Cohen 1988, table 2.4.1


def test_it_falls_with_the_runs_and_grows_with_the_spread():
    assert detectable_difference(1., 3) > detectable_difference(1., 5)
    assert detectable_difference(2., 3) == pytest.approx(2 * detectable_difference(1., 3))
    assert detectable_difference(0., 3) == 0


@pytest.mark.parametrize('wrong', [dict(runs=1), dict(spread=-1.), dict(spread=float('nan')),
                                   dict(power=1.), dict(power=.01)])
def test_what_no_experiment_has_is_refused(wrong):
    with pytest.raises(ValueError, match='expected a spread'):
        detectable_difference(**dict(dict(spread=1., runs=3), **wrong))


def line(row, value, seed):
    return dict(row=row, task='linear', dataset='toy', metric='accuracy/top1', unit='%',
                value=value, seed=seed)


def test_the_table_has_the_spread_of_the_pilot():
    found = table([line('linear/mae', v, s) for s, v in enumerate((10., 12., 14.))]
                  + [line('linear/other', 50., 0)], 'mae', runs=3)
    assert len(found) == 1
    assert found['std'].item() == pytest.approx(2.)
    assert found['detectable with 3 runs'].item() == pytest.approx(detectable_difference(2., 3))


@pytest.mark.parametrize('recipe, said', [('semmae', 'no results of semmae'), ('other', 'one run')])
def test_a_pilot_of_less_than_two_runs_is_refused(recipe, said):
    with pytest.raises(ValueError, match=said):
        table([line('linear/other', 50., 0)], recipe, runs=3)
