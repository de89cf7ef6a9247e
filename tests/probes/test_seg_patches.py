"""Labels of patches, and predictions at full resolution."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.probes import dense
from semmae.probes.dense import full_resolution, patch_areas, patch_labels, score_layers
from semmae.probes.features import ArrayFeatures, Task

TASK = Task('segmentation', 3)


def brute_force(label_map, grid, num_classes, ignore_index):
    height, width = label_map.shape
    counts = np.zeros((*grid, num_classes))
    for y in range(height):
        for x in range(width):
            if label_map[y, x] != ignore_index:
                counts[y * grid[0] // height, x * grid[1] // width, label_map[y, x]] += 1
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 0).reshape(
        -1, num_classes)


def test_a_patch_has_the_share_of_each_class_among_its_labelled_pixels():
    label_map = np.array([[0, 1, 2, 2],
                          [0, 0, 255, 2],
                          [255, 255, 1, 0],
                          [255, 255, 1, 255]], np.uint8)
    assert patch_labels(label_map, (2, 2), 3, 255).tolist() == [
        [.75, .25, 0], [0, 0, 1], [0, 0, 0], [pytest.approx(1 / 3), pytest.approx(2 / 3), 0]]


@pytest.mark.parametrize('shape', [(4, 6), (5, 7), (13, 6), (31, 50)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_shares_equal_a_loop_over_pixels(shape, dtype):
    label_map = np.random.default_rng(0).integers(0, 4, shape).astype(dtype)
    label_map[label_map == 3] = 255
    shares = patch_labels(label_map, (4, 6), 3, 255)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, brute_force(label_map, (4, 6), 3, 255), rtol=1e-6)


def test_any_aspect_ratio_is_stretched_over_the_grid():
    column = np.repeat(np.arange(3), 2)[None]
    wide, high = np.repeat(column, 3, 0), np.repeat(column, 300, 0)
    np.testing.assert_array_equal(patch_labels(wide, (3, 3), 3, 255),
                                  patch_labels(high, (3, 3), 3, 255))


@pytest.mark.parametrize('shape', [(3, 60), (60, 5), (4, 6, 1)])
def test_a_map_without_a_pixel_for_each_patch_is_refused(shape):
    with pytest.raises(ValueError, match='at least 4 x 6 pixels'):
        patch_labels(np.zeros(shape, np.uint8), (4, 6), 3, 255)


def test_a_label_that_is_no_class_is_refused_with_the_image():
    data = ArrayFeatures({(0, 'patches'): np.zeros((2, 24, 1))},
                         [np.zeros((8, 8), np.uint8), np.full((8, 8), 3, np.uint8)], (4, 6))
    with pytest.raises(ValueError, match='1.jpg: got labels 3 to 3, expected 0 to 2, or 255'):
        patch_areas(data, np.arange(2), TASK)


@pytest.mark.parametrize('task', [Task('classification', 3), Task('segmentation', 3, 2)])
def test_another_task_and_an_ignored_class_are_refused(task):
    data = ArrayFeatures({(0, 'patches'): np.zeros((1, 24, 1))}, [np.zeros((8, 8), np.uint8)],
                         (4, 6))
    with pytest.raises(ValueError, match='an ignore_index that is not a class'):
        patch_areas(data, np.arange(1), task)


def test_images_without_a_label_are_refused():
    data = ArrayFeatures({(0, 'patches'): np.zeros((1, 24, 1))}, [np.full((8, 8), 255, np.uint8)],
                         (4, 6))
    with pytest.raises(ValueError, match='1 images without a labelled pixel'):
        patch_areas(data, np.arange(1), TASK)


def test_areas_sum_to_the_labelled_patches_of_an_image_of_any_size():
    maps = [np.zeros((8, 12), np.uint8), np.full((16, 18), 255, np.uint8)]
    maps[1][:4] = 2  # the first of four rows of patches
    data = ArrayFeatures({(0, 'patches'): np.zeros((2, 24, 1))}, maps, (4, 6))
    areas = patch_areas(data, np.arange(2), TASK).toarray().reshape(2, 24, 3)
    assert areas.sum((1, 2)).tolist() == [24, 6]
    assert areas[1].sum(0).tolist() == [0, 0, 6]


@pytest.mark.parametrize('upsampled', [dense.UPSAMPLED, 1])  # all classes at once; one at a time
def test_full_resolution_is_the_argmax_of_bilinear_scores(monkeypatch, upsampled):
    monkeypatch.setattr(dense, 'UPSAMPLED', upsampled)
    scores = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    by_hand = F.interpolate(scores.T.reshape(1, 5, 4, 6), (31, 20), mode='bilinear',
                            align_corners=False).argmax(1)[0]
    found = full_resolution(scores, (4, 6), (31, 20))
    assert found.dtype == torch.int64 and torch.equal(found, by_hand)


def test_the_score_is_the_miou_of_patches_and_a_diverged_setting_scores_minus_infinity():
    label_map = np.repeat(np.repeat([[0, 1], [2, 255]], 2, 0), 2, 1).astype(np.uint8)
    data = ArrayFeatures({(7, 'patches'): np.zeros((1, 4, 1))}, [label_map], (2, 2))
    right = torch.eye(3)[[0, 1, 2, 0]]  # the ignored patch counts for no class
    wrong = torch.eye(3)[[0, 0, 2, 0]]  # IoU 1/2, 0, 1
    scores = torch.stack([right, wrong, right / 0])[:, None]
    assert score_layers({7: [2, 0, 1]}, data, np.arange(1), TASK,
                        lambda layer: lambda tokens: scores) == [
        pytest.approx(50), -np.inf, pytest.approx(100)]


def test_the_largest_class_of_a_patch_is_the_first_of_equal_ones():
    label_map = np.array([[2, 1], [1, 2]], np.uint8)
    data = ArrayFeatures({(0, 'patches'): np.zeros((1, 1, 1))}, [label_map])
    assert patch_areas(data, np.arange(1), TASK).argmax(1).tolist() == [1]
