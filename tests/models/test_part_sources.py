"""Parts from learned maps, heads, clusters and random cells, through one interface."""
import pytest
import torch

from semmae.models.part_sources import SOURCES
from semmae.parts.extract import to_bytes

from .test_part_learner import ARCH, halves, learner
from .test_semmae import build


def with_source(tmp_path, **source):
    return learner(tmp_path, parts=source).eval()


@pytest.mark.parametrize('name', SOURCES)
def test_every_source_gives_parts_and_scores_that_do_not_depend_on_the_batch(tmp_path, name):
    model, images = with_source(tmp_path, type=SOURCES[name]), halves(3)
    ids, foreground = model.segment(images)
    assert ids.shape == foreground.shape == (3, 64) and ids.dtype == torch.int64
    assert 0 <= ids.min() and ids.max() < model.num_parts_out
    assert model.num_parts_out == (3 if name == 'heads' else 4)
    assert ids[2].equal(model.segment(images[2:])[0][0])


def test_colour_clusters_are_the_colours_of_the_image(tmp_path):
    model = with_source(tmp_path, type='semmae.ColourParts')
    model.num_parts = 2
    ids = model.segment(halves(2))[0].view(2, 8, 8)
    for image in ids:
        assert image[:, :4].unique().numel() == image[:, 4:].unique().numel() == 1
        assert image[0, 0] != image[0, 7]


def test_clusters_of_an_image_are_numbered_from_its_border_inwards(tmp_path):
    model = with_source(tmp_path, type='semmae.ColourParts')
    model.num_parts = 2
    images = torch.zeros(1, 3, 32, 32)
    images[..., 8:24, 8:24] = 1
    ids, foreground = model.segment(images)
    assert (ids == 1).view(8, 8)[2:6, 2:6].all() and (ids == 1).sum() == 16
    assert foreground[ids == 1].min() > foreground[ids == 0].max()


def test_pooled_clusters_are_the_same_in_every_image_and_need_fit(tmp_path):
    model = with_source(tmp_path, type='semmae.ColourParts', is_pooled=True)
    model.num_parts = 2
    images = halves(6)
    with pytest.raises(ValueError, match='call fit'):
        model.segment(images)
    model.parts.fit(model, images.chunk(2))
    ids = model.segment(images)[0].view(6, 8, 8)
    assert ids[:, :, :4].unique().numel() == 1 and ids[:, :, 4:].unique().numel() == 1


def test_voronoi_cells_are_a_function_of_the_image(tmp_path):
    model, images = with_source(tmp_path, type='semmae.VoronoiParts'), halves(2)
    first, again = model.segment(images)[0], model.segment(images)[0]
    assert first.equal(again) and not first[0].equal(first[1])
    fixed = with_source(tmp_path, type='semmae.VoronoiParts', is_fixed=True).segment(images)[0]
    assert fixed[0].equal(fixed[1])


@pytest.mark.parametrize('foreground', ['border', 'parts-border', 'parts', 'attention', 'centre'])
def test_the_foreground_ranking_does_not_change_the_parts(tmp_path, foreground):
    images = halves(3)
    ids, scores = with_source(tmp_path, type='semmae.LearnedParts',
                              foreground=foreground).segment(images)
    assert ids.equal(with_source(tmp_path, type='semmae.LearnedParts').segment(images)[0])
    assert scores.shape == (3, 64) and scores.std() > 0
    with pytest.raises(ValueError, match="foreground is 'no'"):
        with_source(tmp_path, type='semmae.LearnedParts', foreground='no')


def pretraining(tmp_path, num_parts=4):
    """A part learner, and a pre-training that gets its parts in the training loop."""
    source = learner(tmp_path)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'learner.pth')
    vit = dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=8)
    online = dict(type='semmae.OnlineParts', checkpoint=str(tmp_path / 'learner.pth'), learner=dict(
        type='semmae.PartLearner', num_parts=4, blur_kernel=3,
        encoder=dict(type='semmae.PartEncoder', backbone=vit, grid=8),
        decoder=dict(type='semmae.PartDecoder', channels=(16, 16), num_upsamplings=1)))
    return source, build(dict(type='semmae.PartGuidedMasking', num_parts=num_parts), img_size=32,
                         patch_size=4, online_parts=online, num_candidates=16)


def test_online_parts_give_the_loss_of_a_store_of_the_same_parts(tmp_path):
    source, model = pretraining(tmp_path)
    images, noise = halves(3), torch.rand(3, 64 + 4)
    ids, foreground = source.segment(images)
    online = model(images, noise=noise, mode='loss')
    with pytest.raises(ValueError, match='expected one of them'):
        model(images, part_ids=ids, noise=noise, mode='loss')
    model.online_parts = None
    stored = dict(part_ids=ids.to(torch.uint8), foreground=to_bytes(foreground))
    assert online['loss'].equal(model(images, noise=noise, mode='loss', **stored)['loss'])


def test_the_online_learner_is_neither_trained_nor_saved(tmp_path):
    _, model = pretraining(tmp_path)
    assert not [k for k in model.state_dict() if 'encoder' in k or 'online' in k]
    trained = {n.split('.')[0] for n, _ in model.named_parameters()}
    assert trained == {'backbone', 'decoder'}


def test_online_parts_of_another_grid_or_number_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'gives \(patches, parts\) \(64, 4\).*\(64, 6\)'):
        pretraining(tmp_path, num_parts=6)


def test_fixed_cells_are_equal_rectangles_in_the_same_place(tmp_path):
    model = with_source(tmp_path, type='semmae.CellParts')
    for parts, sides in ((4, (2, 2)), (8, (2, 4)), (2, (1, 2))):
        model.num_parts = parts
        ids = model.segment(halves(2))[0].view(2, 8, 8)
        assert ids[0].equal(ids[1])
        blocks = ids[0].unflatten(0, (sides[0], -1)).unflatten(2, (sides[1], -1))
        assert (blocks == blocks[:, :1, :, :1]).all() and ids.unique().tolist() == [*range(parts)]


@pytest.mark.parametrize('is_pooled', [False, True])
@pytest.mark.parametrize('whose', ['source', 'learner'])
def test_clusters_within_the_object_leave_the_background_alone(tmp_path, is_pooled, whose):
    found = dict(by='centre', threshold=.25)
    model = learner(tmp_path, num_parts=3, parts=dict(
        type='semmae.ColourParts', is_pooled=is_pooled,
        **(dict(object=found) if whose == 'source' else {})),
        object=found if whose == 'learner' else None).eval()
    images = halves(4)
    if is_pooled:
        model.parts.fit(model, images.chunk(2))
    ids, foreground = model.segment(images)
    ids = ids.view(4, 8, 8)
    assert (ids[:, 2:6, 2:6] > 0).all() and (ids > 0).sum() == 4 * 16
    left, right = ids[:, 2:6, 2:4], ids[:, 2:6, 4:6]
    assert all(x.unique().numel() == 1 for x in (*left, *right))
    assert not (left == right).any()
    assert foreground[ids.flatten(1) > 0].min() > foreground[ids.flatten(1) == 0].max()


def test_learned_parts_read_the_foreground_in_one_pass(tmp_path, monkeypatch):
    model = with_source(tmp_path, type='semmae.LearnedParts', foreground='both', layer=0)
    calls, original = [], model.encoder.features
    monkeypatch.setattr(model.encoder, 'features', lambda x: calls.append(1) or original(x))
    model.segment(halves(2))
    assert len(calls) == 1


@pytest.mark.parametrize('wrong', [dict(foreground='colour'), dict(foreground='parts', layer=1)])
def test_a_ranking_that_is_not_there_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match='expected one of'):
        with_source(tmp_path, type='semmae.LearnedParts', **wrong)
