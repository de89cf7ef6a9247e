"""Parts from learned maps, heads, clusters and random cells, behind one interface."""
import pytest
import torch

from semmae.models.part_sources import SOURCES
from semmae.parts.extract import to_bytes
from semmae.registry import MODELS

from .test_part_learner import halves, learner


def with_source(tmp_path, **source):
    return learner(tmp_path, parts=source).eval()


@pytest.mark.parametrize('name', SOURCES)
def test_every_source_gives_ids_in_its_range_and_a_score_for_each_patch(tmp_path, name):
    model = with_source(tmp_path, type=SOURCES[name])
    ids, foreground = model.segment(halves(3))
    assert ids.shape == foreground.shape == (3, 64) and ids.dtype == torch.int64
    assert 0 <= ids.min() and ids.max() < model.num_parts_out
    assert model.num_parts_out == (3 if name == 'heads' else 4)


@pytest.mark.parametrize('name', SOURCES)
def test_parts_of_an_image_do_not_depend_on_the_batch_it_is_in(tmp_path, name):
    model, images = with_source(tmp_path, type=SOURCES[name]), halves(4)
    together, alone = model.segment(images)[0], model.segment(images[2:3])[0]
    assert together[2].equal(alone[0])


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


def test_pooled_clusters_mean_the_same_in_every_image_and_have_to_be_fitted(tmp_path):
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
def test_the_foreground_ranking_is_a_choice_that_leaves_the_parts_alone(tmp_path, foreground):
    images = halves(3)
    ids, scores = with_source(tmp_path, type='semmae.LearnedParts',
                              foreground=foreground).segment(images)
    assert ids.equal(with_source(tmp_path, type='semmae.LearnedParts').segment(images)[0])
    assert scores.shape == (3, 64) and scores.std() > 0
    with pytest.raises(ValueError, match="foreground is 'no'"):
        with_source(tmp_path, type='semmae.LearnedParts', foreground='no')


# ------------------------------------------------------------------ in the training loop
def pretraining(tmp_path, **kwargs):
    model = learner(tmp_path)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'learner.pth')
    vit = dict(type='semmae.ViT', arch=dict(embed_dims=24, num_layers=2, num_heads=3,
                                            feedforward_channels=48), img_size=32, patch_size=4)
    online = dict(type='semmae.OnlineParts', checkpoint=str(tmp_path / 'learner.pth'), learner=dict(
        type='semmae.PartLearner', num_parts=4, blur_kernel=3,
        encoder=dict(type='semmae.PartEncoder', backbone=dict(vit, patch_size=8), grid=8),
        decoder=dict(type='semmae.PartDecoder', channels=(16, 16), num_upsamplings=1)))
    return model, MODELS.build(dict(dict(
        type='semmae.SemMAE', backbone=vit, online_parts=online, num_candidates=16,
        decoder=dict(type='semmae.MAEDecoder', grid=8, patch_size=4, embed_dim=24,
                     decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
        masking=dict(type='semmae.PartGuidedMasking', num_parts=4)), **kwargs))


def test_online_parts_give_the_masks_and_loss_that_a_store_of_the_same_parts_gives(tmp_path):
    source, model = pretraining(tmp_path)
    model.init_weights()
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
        pretraining(tmp_path, masking=dict(type='semmae.PartGuidedMasking', num_parts=6))
