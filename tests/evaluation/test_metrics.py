"""Part quality: values worked by hand, agreement with scikit-learn, and invariances."""
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from semmae.evaluation import part_quality as quality
from semmae.registry import METRICS

GRID = 4


def build(kind, **kwargs):
    return METRICS.build(dict(type=f'semmae.{kind}', **kwargs))


def evaluate(kind, samples, batch=3, settings=(), **kwargs):
    """Metrics of a list of samples without their prefix. settings: attributes of the metric."""
    metric = build(kind, **kwargs)
    vars(metric).update(settings)
    for at in range(0, len(samples), batch):
        metric.process(None, samples[at:at + batch])
    prefix = metric.prefix + '/'
    return {k.removeprefix(prefix): v for k, v in metric.evaluate(len(samples)).items()}


def segmented(index, ids, labels, num_parts=6):
    """A sample whose patches have these part ids and true labels (one pixel a patch)."""
    grid = math.isqrt(len(ids))
    return dict(sample_idx=index, part_ids=torch.tensor(ids), num_parts=num_parts,
                part_labels=torch.tensor(labels, dtype=torch.uint8).reshape(grid, grid))


def birds(n, seed=0, num_parts=3, num_landmarks=2):
    """CUB-like samples with random parts, landmarks and boxes; every third is a test image."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        landmarks = rng.random((num_landmarks, 3), np.float32)
        landmarks[:, 2] = rng.random(num_landmarks) < .8
        samples.append(dict(
            sample_idx=i, part_ids=torch.tensor(rng.integers(num_parts, size=GRID ** 2)),
            foreground=torch.tensor(rng.random(GRID ** 2, np.float32)), num_parts=num_parts,
            landmarks=torch.tensor(landmarks), bbox=torch.tensor([.2, .2, .6, .5]),
            box_size=torch.tensor([.6, .5]), is_train=torch.tensor(i % 3 > 0)))
    return samples


def random_segmented(n, length=36):
    rng = np.random.default_rng(0)
    return [dict(segmented(i, rng.integers(6, size=length), rng.integers(4, size=length)),
                 foreground=torch.tensor(rng.random(length, np.float32))) for i in range(n)]


# The pure functions

def test_the_label_of_a_patch_is_that_of_most_pixels_in_a_tie_the_lower():
    labels = np.array([[1, 1, 2, 5],
                       [1, 0, 5, 2],
                       [3, 3, 0, 0],
                       [3, 3, 0, 4]], np.uint8)
    assert quality.patch_labels(labels, 2).tolist() == [1, 2, 3, 0]


def test_pixels_belong_to_the_patch_of_their_upper_left_corner():
    labels = np.zeros((5, 5), np.uint8)
    labels[:3, :3] = 1        # y * 2 // 5 is 0, 0, 0, 1, 1
    assert quality.patch_labels(labels, 2).tolist() == [1, 0, 0, 0]
    labels[0, 0] = labels[1, 1] = labels[2, 2] = labels[0, 1] = labels[0, 2] = 7
    assert quality.patch_labels(labels, 2).tolist() == [7, 0, 0, 0]


@pytest.mark.parametrize('shape', [(4, 6), (3, 3), (4, 4, 3)])
def test_a_label_map_without_a_pixel_for_every_patch_is_refused(shape):
    with pytest.raises(ValueError, match=r'label map of shape .*expected \(S, S\).*4x4'):
        quality.patch_labels(np.zeros(shape, np.uint8), 4)


ids = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)


@given(ids)
def test_scores_from_counts_equal_those_of_sklearn_on_the_patches(pairs):
    parts, labels = np.array(pairs).T
    counts = quality.count_matrix(parts, labels, 5)
    assert quality.adjusted_rand(counts) == pytest.approx(adjusted_rand_score(labels, parts))
    assert quality.normalized_mutual_info(counts) == pytest.approx(
        normalized_mutual_info_score(labels, parts), abs=1e-9)


@given(ids)
def test_matched_iou_is_the_best_of_all_assignments_of_parts_to_labels(pairs):
    parts, labels = np.array(pairs).T
    present = np.unique(labels)
    best = max(sum(((parts == p) & (labels == k)).sum() / ((parts == p) | (labels == k)).sum()
                   for p, k in zip(order, present)) for order in itertools.permutations(range(5)))
    found = quality.matched_iou(quality.count_matrix(parts, labels, 5))
    assert found == pytest.approx(best / len(present))


def test_counts_of_billions_of_patches_do_not_overflow():
    small = np.array([[40, 10], [5, 45]])
    huge = small * 10 ** 7
    assert quality.adjusted_rand(huge) == pytest.approx(quality.adjusted_rand(small), abs=.02)
    assert quality.normalized_mutual_info(huge) == pytest.approx(
        quality.normalized_mutual_info(small))


def test_a_part_at_the_border_is_background():
    ids = np.array([[0, 0, 0, 1],
                    [0, 2, 1, 1],
                    [0, 2, 2, 0],
                    [0, 0, 0, 0]])
    # border 12: 0 ten times, 1 twice; inside 4: part 2 three times, 1 once (1/4 > 2/12)
    assert np.array_equal(quality.object_patches(ids.ravel(), 3, 4), ids.ravel() > 0)


def test_a_patch_is_in_the_box_if_its_centre_is():
    assert quality.patches_in_box([.3, .1, .4, .5], 4).reshape(4, 4).tolist() == [
        [False, True, True, False], [False, True, True, False], [False] * 4, [False] * 4]
    assert not quality.patches_in_box([0, 0, .1, .1], 4).any()


def test_centroids_are_in_the_units_of_landmarks():
    ids = np.zeros(16, np.int64)
    ids[[1, 2]] = 1                             # upper row, second and third column
    found = quality.centroids(ids, 3, 4)
    assert found[1].tolist() == [.5, .125] and np.isnan(found[2]).all()
    assert quality.patch_at([[.49, 0.], [.99, .99], [1., 1.]], 4).tolist() == [1, 15, 15]


# PartSegmentation

def test_the_values_of_one_image_worked_by_hand():
    found = evaluate('PartSegmentation', [segmented(0, [0, 0, 1, 1], [0, 0, 0, 1], num_parts=3)])
    # Pairs: 6, of which 1 is together in both, 2 by part, 3 by label; by chance 2 * 3 / 6 = 1.
    # IoU: part 0 is 2/3 of label 0, part 1 is 1/2 of label 1.
    assert found['ARI'] == found['pooled_ARI'] == 0
    assert found['IoU'] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    entropy_parts, entropy_labels = 1., 2 - .75 * math.log2(3)
    shared = entropy_labels - .5                # given the part: half of the patches cost one bit
    assert found['NMI'] == pytest.approx(200 * shared / (entropy_parts + entropy_labels))
    assert found['parts_used'] == 2 and found['images'] == 1 and found['object_images'] == 0
    assert not [key for key in found if key.startswith('object_') and key != 'object_images']


def test_the_object_alone_is_scored_without_its_background():
    labels = [0, 0, 0, 1, 1, 2, 2, 2, 0]
    parts = [3, 3, 4, 0, 0, 1, 1, 0, 1]
    found = evaluate('PartSegmentation', [segmented(0, parts, labels)])
    chosen = np.array(labels) > 0
    parts, labels = np.array(parts)[chosen], np.array(labels)[chosen]     # 0 0 1 1 0 of 1 1 2 2 2
    assert found['object_ARI'] == pytest.approx(100 * adjusted_rand_score(labels, parts))
    assert found['object_NMI'] == pytest.approx(100 * normalized_mutual_info_score(labels, parts))
    assert found['object_IoU'] == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert found['object_images'] == 1 and found['parts_used'] == 4


def test_perfect_parts_score_100_and_swapped_ids_lower_only_pooled_values():
    labels = np.random.default_rng(0).integers(4, size=(5, 36))
    same = [segmented(i, row, row) for i, row in enumerate(labels)]
    found = evaluate('PartSegmentation', same)
    scores = {k: v for k, v in found.items() if k.split('_')[-1] in ('ARI', 'NMI', 'IoU')}
    assert scores == pytest.approx(dict.fromkeys(scores, 100)) and len(scores) == 10
    swapped = [segmented(i, (row + i) % 6, row) for i, row in enumerate(labels)]
    other = evaluate('PartSegmentation', swapped)
    for key in scores:
        if 'pooled' in key:
            assert other[key] < 60
        else:
            assert other[key] == pytest.approx(100)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_a_permutation_of_the_part_ids_changes_nothing(order):
    samples = random_segmented(4)
    renamed = [dict(s, part_ids=torch.tensor(order)[s['part_ids']]) for s in samples]
    assert evaluate('PartSegmentation', renamed) == pytest.approx(
        evaluate('PartSegmentation', samples))


def test_a_random_voronoi_cut_has_an_ari_of_about_0_on_the_object():
    rng, grid, n = np.random.default_rng(0), 12, 100
    at = quality.centres(grid)

    def voronoi(number):
        return np.linalg.norm(at[:, None] - rng.random((number, 2)), axis=2).argmin(1)
    labels = [rng.permutation(voronoi(5)) for _ in range(n)]  # without a shape
    found = evaluate('PartSegmentation', [segmented(i, voronoi(6), labels[i]) for i in range(n)])
    assert abs(found['ARI']) < .5 and abs(found['object_ARI']) < .5
    assert found['pooled_NMI'] < .5


@pytest.mark.parametrize('length', [36, 10000])           # the counts of the larger exceed a byte
def test_pooled_values_equal_sklearns_on_all_patches(length):
    samples = random_segmented(7, length)
    parts = np.concatenate([s['part_ids'] for s in samples])
    labels = np.concatenate([s['part_labels'].flatten() for s in samples])
    found = evaluate('PartSegmentation', samples)
    for prefix, chosen in (('', labels >= 0), ('object_', labels > 0)):
        p, k = parts[chosen], labels[chosen]
        assert found[f'{prefix}pooled_ARI'] == pytest.approx(100 * adjusted_rand_score(k, p))
        assert found[f'{prefix}pooled_NMI'] == pytest.approx(
            100 * normalized_mutual_info_score(k, p))


def test_images_with_one_label_on_the_object_are_counted_but_not_scored_on_it():
    both = [segmented(0, [0, 0, 1, 1], [0, 2, 1, 1]), segmented(1, [0, 0, 0, 1], [0, 0, 3, 3])]
    found = evaluate('PartSegmentation', both)
    alone = evaluate('PartSegmentation', both[:1])
    assert found['images'] == 2 and found['object_images'] == 1
    assert found['object_ARI'] == alone['object_ARI']
    assert found['object_pooled_ARI'] == pytest.approx(
        100 * adjusted_rand_score([2, 1, 1, 3, 3], [0, 1, 1, 0, 1]))


def test_another_label_can_be_the_background():
    labels = np.array([5, 5, 1, 2])
    found = evaluate('PartSegmentation', [segmented(0, [0, 1, 2, 3], labels)], background=5)
    assert found['object_images'] == 1 and found['object_ARI'] == 100


def test_part_ids_outside_of_the_parts_are_refused():
    with pytest.raises(ValueError, match='image 4: got part ids from 0 to 3, expected 0 to 2'):
        evaluate('PartSegmentation', [segmented(4, [0, 1, 2, 3], [0] * 4, num_parts=3)])


# LandmarkQuality

def painted(landmarks, index, num_parts=3, grid=8, **more):
    """A sample with one patch of part 1 under the first landmark, 2 under the second, 0 elsewhere.

    The landmarks are then moved to the middles of their patches.
    """
    at = quality.patch_at(np.array(landmarks)[:, :2], grid)
    parts = np.zeros(grid ** 2, np.int64)
    for part, patch in enumerate(at, 1):
        parts[patch] = part
    points = np.concatenate([quality.centres(grid)[at], np.array(landmarks)[:, 2:]], 1)
    return dict(dict(
        sample_idx=index, part_ids=torch.tensor(parts), num_parts=num_parts,
        landmarks=torch.tensor(points, dtype=torch.float32), bbox=torch.tensor([0., 0., 1., 1.]),
        box_size=torch.tensor([1., 1.]), is_train=torch.tensor(index % 2 == 0)), **more)


def positions(n, seed=0):
    """Two landmarks an image, one in each half, so that they never share a patch."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, .49, (n, 2)), rng.uniform(.5, 1, (n, 2))
    ones = np.ones((n, 1))
    return np.stack([np.hstack([first, ones]), np.hstack([second, ones])], 1)


def test_landmarks_that_follow_from_the_parts_are_predicted():
    samples = [painted(p, i) for i, p in enumerate(positions(60))]
    found = evaluate('LandmarkQuality', samples, settings=dict(ridge=1e-6))
    assert found['error'] < 1e-3 < 10 < found['constant_error']
    assert found['train_images'] == found['test_images'] == 30 and found['landmarks'] == 60
    assert found['ARI'] == 100 and found['NMI'] == pytest.approx(100)


def test_fixed_parts_predict_the_mean_position():
    samples = [painted(p, i) for i, p in enumerate(positions(60))]
    still = [dict(s, part_ids=samples[0]['part_ids']) for s in samples]
    found = evaluate('LandmarkQuality', still)
    assert found['error'] == pytest.approx(found['constant_error'], rel=1e-6)


def test_landmark_errors_worked_by_hand():
    def sample(index, x, y, is_train):
        return dict(painted([[.1, .1, 1], [.9, .9, 1]], index, is_train=torch.tensor(is_train)),
                    landmarks=torch.tensor([[x, y, 1.]]), box_size=torch.tensor([.5, .125]))
    samples = [sample(0, .2, .2, True), sample(1, .4, .4, True),
               sample(2, .6, .7, False), sample(3, .3, .8, False)]
    found = evaluate('LandmarkQuality', samples)      # mean .3, .3; square root of the area 1/4
    assert found['constant_error'] == pytest.approx(100 * (.5 + .5) / 2 / .25)
    hidden = dict(samples[3], landmarks=torch.tensor([[.3, .8, 0.]]))
    found = evaluate('LandmarkQuality', [*samples[:3], hidden])
    assert found['landmarks'] == 1 and found['constant_error'] == pytest.approx(100 * .5 / .25)
    larger = dict(samples[2], box_size=torch.tensor([1., 1.]))
    found = evaluate('LandmarkQuality', [*samples[:2], larger, samples[3]])
    assert found['constant_error'] == pytest.approx(100 * (.5 / 1 + .5 / .25) / 2)


def test_a_landmark_is_fitted_on_images_that_show_it():
    places = positions(40)
    samples = [painted(p, i) for i, p in enumerate(places)]
    for sample in samples[::4]:                       # half of the training images
        sample['landmarks'] = sample['landmarks'] * torch.tensor([[1.], [0.]])
    found = evaluate('LandmarkQuality', samples, settings=dict(ridge=1e-6))
    assert found['error'] < 1e-3 and found['landmarks'] == 40


def test_the_presence_of_a_part_is_a_feature():
    rng = np.random.default_rng(0)
    at, is_train = rng.uniform(.2, .8, (40, 1, 2)), np.arange(40) % 2 == 0
    landmarks = np.concatenate([at, np.ones((40, 1, 1))], 2)
    at[::5], landmarks[::5, :, :2] = np.nan, .9        # no part: the landmark is in a corner
    errors, floors, unseen = quality.landmark_errors(
        at, landmarks, np.ones((40, 2)), is_train, ridge=1e-6)
    assert errors.max() < 1e-4 < .1 < floors.mean() and unseen == 0 and len(errors) == 20


def regressed(n=60, seed=0):
    """Arguments of `landmark_errors` for random images; a fifth of the parts is absent."""
    rng = np.random.default_rng(seed)
    at, landmarks = rng.random((n, 3, 2)), rng.random((n, 1, 3))
    at[rng.random((n, 3)) < .2] = np.nan
    landmarks[..., 2] = 1
    return at, landmarks, np.ones((n, 2)), np.arange(n) < 20


def test_the_error_of_an_image_does_not_depend_on_other_test_images():
    arguments = regressed()
    every = quality.landmark_errors(*arguments, ridge=.1)[0]
    some = quality.landmark_errors(*(a[:30] for a in arguments), ridge=.1)[0]
    assert every[:10] == pytest.approx(some, rel=1e-9)


def test_the_penalty_does_not_depend_on_the_number_of_images():
    at, landmarks, sizes, is_train = regressed()
    again = np.r_[:20, :60]                            # every training image twice
    once = quality.landmark_errors(at, landmarks, sizes, is_train, ridge=.5)[0]
    twice = quality.landmark_errors(at[again], landmarks[again], sizes[again], is_train[again],
                                    ridge=.5)[0]
    weak = quality.landmark_errors(at, landmarks, sizes, is_train, ridge=.1)[0]
    assert once == pytest.approx(twice, rel=1e-9) and np.abs(once - weak).max() > 1e-3


def test_a_landmark_that_no_training_image_shows_is_counted_and_left_out():
    samples = [painted(p, i) for i, p in enumerate(positions(20))]
    for sample in samples[::2]:
        sample['landmarks'] = sample['landmarks'] * torch.tensor([[1.], [0.]])
    found = evaluate('LandmarkQuality', samples)
    assert found['landmarks'] == found['unseen_landmarks'] == 10


def test_parts_under_landmarks_are_compared_over_the_test_images_only():
    samples = birds(30)
    found = evaluate('LandmarkQuality', samples)
    parts, numbers = [], []
    for s in samples:
        for k, (x, y, visible) in enumerate(s['landmarks'].tolist()):
            if visible and not s['is_train']:
                parts.append(int(s['part_ids'].reshape(GRID, GRID)[int(y * GRID), int(x * GRID)]))
                numbers.append(k)
    assert found['NMI'] == pytest.approx(100 * normalized_mutual_info_score(numbers, parts))
    assert found['ARI'] == pytest.approx(100 * adjusted_rand_score(numbers, parts))
    assert found['landmarks'] == len(parts) and found['test_images'] == 10


def test_box_iou_compares_object_parts_with_the_box():
    parts = torch.zeros(16, dtype=torch.int64)
    parts[[5, 6]] = 1                                 # background 0, object two patches
    sample = painted([[.1, .1, 1]], 1, part_ids=parts)
    sample['bbox'] = torch.tensor([.3, .3, .4, .6])   # its patches: 5, 6, 9, 10, 13, 14
    found = evaluate('LandmarkQuality', [sample, dict(sample, sample_idx=0,
                                                      is_train=torch.tensor(True))])
    assert found['box_IoU'] == pytest.approx(100 * 2 / 6) and found['box_images'] == 1
    outside = dict(sample, bbox=torch.tensor([1., .3, 0., .6]), sample_idx=2)
    found = evaluate('LandmarkQuality', [sample, outside, dict(
        sample, sample_idx=0, is_train=torch.tensor(True))])
    assert found['box_IoU'] == pytest.approx(100 * 2 / 6)
    assert found['box_images'] == 1 and found['test_images'] == 2


@pytest.mark.parametrize('is_train, message', [
    (True, '4 training images and 0 test images'), (False, '0 training images and 4 test images')])
def test_both_splits_are_needed(is_train, message):
    samples = [dict(s, is_train=torch.tensor(is_train)) for s in birds(4)]
    with pytest.raises(ValueError, match=f"{message}.*split='all'"):
        evaluate('LandmarkQuality', samples)


def test_a_box_without_area_is_refused():
    sample = dict(birds(1)[0], box_size=torch.tensor([.5, 0.]))
    with pytest.raises(ValueError, match=r'image 0: got a box .*\[0.5, 0.0\]'):
        evaluate('LandmarkQuality', [sample])


# ForegroundQuality

def scored(scores, labels, index=0):
    return dict(segmented(index, [0] * len(labels), labels), foreground=torch.tensor(scores))


def test_the_ranking_of_one_image_worked_by_hand():
    #          object   1    1    0    0 ...: pairs of object and background that are in order
    scores = [.9, .4, .8, .3, .2, .1, 0., 0., 0.]
    labels = [1, 2, 0, 0, 0, 0, 0, 0, 0]
    found = evaluate('ForegroundQuality', [scored(scores, labels)], settings=dict(keep=2 / 9))
    assert found['AUC'] == pytest.approx(100 * (7 + 6) / 14)
    assert found['kept'] == found['precision'] == 50               # kept: patches 0 and 2
    assert found['kept_chance'] == found['precision_chance'] == pytest.approx(200 / 9)
    assert found['kept_best'] == 100 and found['images'] == found['ranked_images'] == 1
    found = evaluate('ForegroundQuality', [scored(scores, labels)], settings=dict(keep=1 / 9))
    assert found['kept'] == found['kept_best'] == 50 and found['precision'] == 100


def test_of_equal_scores_the_lower_positions_are_kept():
    found = evaluate('ForegroundQuality', [scored([1., 1., 1., 1.], [0, 1, 1, 1])],
                     settings=dict(keep=.5))
    assert found['AUC'] == 50
    assert found['kept'] == pytest.approx(100 / 3) and found['precision'] == 50


def test_images_without_object_or_background_are_counted_and_left_out():
    rows = [scored([.1, .2, .3, .4], labels, i)
            for i, labels in enumerate([[0] * 4, [1] * 4, [0, 0, 0, 2]])]
    found = evaluate('ForegroundQuality', rows)
    assert found['AUC'] == found['kept'] == found['precision'] == 100
    assert found['images'] == 3 and found['ranked_images'] == 1
    assert evaluate('ForegroundQuality', rows[:2]) == dict(images=2, ranked_images=0)


def test_without_label_maps_the_box_is_the_object():
    sample = scored([4., 3., 2., 1.], [0] * 4)
    del sample['part_labels']
    sample['bbox'] = torch.tensor([0., 0., .5, 1.])                # the left column
    found = evaluate('ForegroundQuality', [sample], settings=dict(keep=.5))
    assert found['AUC'] == 75 and found['kept'] == found['precision'] == 50


def test_random_scores_are_at_chance():
    rng, n = np.random.default_rng(0), 300
    labels = (rng.random((n, 64)) < .3).astype(int)
    found = evaluate('ForegroundQuality', [
        scored(rng.random(64, np.float32), labels[i], i) for i in range(n)])
    assert found['AUC'] == pytest.approx(50, abs=1)
    assert found['kept'] == pytest.approx(found['kept_chance'], abs=1.5)
    assert found['precision'] == pytest.approx(found['precision_chance'], abs=1.5)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match='image 0: got NaN or infinite foreground'):
        evaluate('ForegroundQuality', [scored([0., math.nan, 1., 1.], [0, 1, 1, 1])])


# All of them

CASES = {'PartSegmentation': random_segmented(7), 'LandmarkQuality': birds(7),
         'ForegroundQuality': random_segmented(7)}


@pytest.mark.parametrize('kind', CASES)
def test_batches_and_order_change_nothing(kind):
    expected = evaluate(kind, CASES[kind])
    assert any(math.isfinite(v) and v not in (0, 7, 100) for v in expected.values())
    assert evaluate(kind, CASES[kind][::-1], batch=2) == expected
    assert evaluate(kind, CASES[kind][3:] + CASES[kind][:3], batch=7) == expected


def two_ranks(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet',
                                         rank=rank, world_size=2)
    found = {}
    for kind, samples in CASES.items():
        metric = build(kind, collect_dir=f'{folder}/{kind}')
        indices = list(DefaultSampler(samples, shuffle=False))       # 4 a rank: one comes twice
        for at in range(0, 4, 3):
            metric.process(None, [samples[i] for i in indices[at:at + 3]])
        found[kind] = metric.evaluate(len(samples))
    torch.save(found, f'{folder}/rank{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_ranks_with_a_padded_sample_give_the_values_of_one(tmp_path):
    torch.multiprocessing.start_processes(two_ranks, (str(tmp_path),), nprocs=2,
                                          start_method='fork')
    for kind, samples in CASES.items():
        expected = evaluate(kind, samples)
        prefix = build(kind).prefix
        for rank in range(2):
            found = torch.load(tmp_path / f'rank{rank}.pt')[kind]
            assert found == {f'{prefix}/{k}': v for k, v in expected.items()}


@pytest.mark.parametrize('kind', CASES)
def test_a_repeated_image_is_refused(kind):
    with pytest.raises(ValueError, match='got image 2 more than once, expected each image'):
        evaluate(kind, [*CASES[kind], CASES[kind][2]])
    with pytest.raises(ValueError, match='got no image'):
        build(kind).evaluate(0)


@pytest.mark.parametrize('kind, missing', [
    ('PartSegmentation', 'part_labels'), ('LandmarkQuality', 'box_size'),
    ('ForegroundQuality', 'part_labels')])
def test_missing_truth_is_named_with_the_step_that_loads_it(kind, missing):
    sample = {k: v for k, v in CASES[kind][0].items() if k != missing}
    with pytest.raises(ValueError, match=f'got n.*{missing}.*semmae.LoadPartTruth'):
        evaluate(kind, [sample])


def test_a_grid_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match='got 8 patches, expected a square grid'):
        evaluate('PartSegmentation', [dict(CASES['PartSegmentation'][0],
                                           part_ids=torch.zeros(8, dtype=torch.int64))])


def test_the_record_of_an_image_is_small():
    metric = build('LandmarkQuality')
    metric.process(None, birds(1, num_parts=6, num_landmarks=15))
    assert len(pickle.dumps(metric.results)) < 2000


def test_a_background_label_that_never_occurs_is_refused():
    metric = METRICS.build(dict(type='semmae.PartSegmentation', background=0))
    metric.process(None, [dict(sample_idx=0, part_ids=torch.zeros(4, dtype=torch.int64),
                               num_parts=1, part_labels=torch.tensor([[3, 40], [40, 40]]))])
    with pytest.raises(ValueError, match='no patch has it; got labels 3 to 40'):
        metric.compute_metrics(metric.results)
