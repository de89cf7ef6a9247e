"""Part learning trains attention and decoder only, and finds the parts of simple images."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from semmae.models.part_encoder import Seen
from semmae.registry import MODELS
from tests.conftest import REPO

ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)


def learner(tmp_path, **kwargs):
    torch.manual_seed(0)
    vit = dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=8)
    weights = tmp_path / 'encoder.pth'
    encoder = MODELS.build(vit)
    encoder.init_weights()
    torch.save(encoder.state_dict(), weights)
    model = MODELS.build(dict(dict(
        type='semmae.PartLearner', num_parts=4, blur_kernel=3,
        encoder=dict(type='semmae.PartEncoder', backbone=vit, grid=8, checkpoint=str(weights)),
        decoder=dict(type='semmae.PartDecoder', channels=(16, 16), num_upsamplings=1)), **kwargs))
    model.init_weights()
    return model


def halves(batch):
    """Images of two flat colours, left and right."""
    x = torch.zeros(batch, 3, 32, 32)
    x[..., :16] = torch.rand(batch, 3, 1, 1) * 2
    x[..., 16:] = -torch.rand(batch, 3, 1, 1) * 2
    return x


def test_training_lowers_the_loss_and_leaves_the_encoder_bit_identical(tmp_path):
    model = learner(tmp_path)
    model.train()
    assert not model.encoder.training and not model.encoder.backbone.training
    frozen = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='Adam', lr=4e-3)))
    losses = []
    for _ in range(30):
        loss = model(halves(16), mode='loss')['loss']
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(v.equal(frozen[k]) for k, v in model.encoder.state_dict().items())
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split('.')[0] for n in names} == {'w1', 'w2', 'wp', 'w', 'decoder'}


@pytest.mark.parametrize('axis, size', [('parts', 1), ('positions', -1)])
def test_maps_sum_to_one_over_the_chosen_axis(tmp_path, axis, size):
    maps = learner(tmp_path, softmax_over=axis)(halves(2), mode='tensor')
    assert maps.shape == (2, 4, 64)
    torch.testing.assert_close(maps.sum(size), torch.ones(()).expand_as(maps.sum(size)))


def test_a_prediction_has_the_parts_and_the_truth_of_each_image(tmp_path):
    model = learner(tmp_path)
    first, second = model(halves(2), mode='predict', sample_idx=torch.tensor([7, 9]))
    ids, foreground = model.segment(halves(2))
    assert first['part_ids'].shape == first['foreground'].shape == (64,)
    assert (first['sample_idx'], second['sample_idx'], first['num_parts']) == (7, 9, 4)
    assert ids.shape == foreground.shape == (2, 64)


def test_space_reaches_the_decoder_only_through_the_maps(tmp_path):
    decoder = learner(tmp_path).decoder
    image = decoder(torch.full((1, 4, 16, 16), 0.25), torch.randn(1, 24))
    inner = image[..., 8:-8, 8:-8]  # away from the zero padding
    assert inner.shape[-1] == 16
    assert torch.allclose(inner, inner[..., :1, :1].expand_as(inner), atol=1e-4)


PAINT = dict(type='semmae.PaintDecoder')


def test_a_painted_part_has_one_colour_where_its_map_is(tmp_path):
    decoder = learner(tmp_path, decoder=PAINT).decoder
    maps = torch.zeros(1, 4, 8, 8)
    maps[:, 0, :, :4] = maps[:, 1, :, 4:] = 1
    image = decoder(maps, torch.randn(1, 4, 24))
    assert image.shape == (1, 3, 8, 8)
    assert len(image[0].flatten(1).T.unique(dim=0)) == 2
    assert image[..., :4].equal(image[..., :1].expand(1, 3, 8, 4)[..., :4])


def test_the_colour_of_a_part_depends_on_its_own_patches_only(tmp_path):
    model = learner(tmp_path, decoder=PAINT, blur_kernel=1)
    maps = torch.zeros(1, 4, 64)
    maps[:, 0, :32] = maps[:, 1, 32:] = 1
    patches = torch.randn(1, 64, 24)
    other = patches.clone()
    other[:, 32:] = torch.randn(1, 32, 24)
    a, b = (model.reconstruct(maps, torch.zeros(1, 24), p)[0].flatten(2) for p in (patches, other))
    assert a[..., :32].equal(b[..., :32]) and not a[..., 32:].allclose(b[..., 32:])


def test_painting_finds_the_two_halves_of_an_image(tmp_path):
    model = learner(tmp_path, decoder=dict(PAINT, paints_tokens=True), token_weight=.1)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='Adam', lr=4e-3)))
    for _ in range(80):
        wrapper.update_params(model(halves(16), mode='loss')['loss'])
    ids = model.segment(halves(8))[0].view(8, 8, 8)
    # In columns 3 and 4 a patch of the encoder can show both colours.
    assert not (ids[:, :, :3, None] == ids[:, :, None, 5:]).any()


@pytest.mark.parametrize('setting', [
    dict(token_weight=.1), dict(token_weight=.1, decoder=PAINT),
    dict(decoder=dict(PAINT, paints_tokens=True))])
def test_a_token_loss_needs_a_decoder_of_tokens_and_the_reverse(tmp_path, setting):
    with pytest.raises(ValueError, match='paints_tokens=True'):
        learner(tmp_path, **setting)


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path):
    model, images = learner(tmp_path), halves(8)
    model(images, mode='loss')['loss'].backward()
    whole = {k: p.grad.clone() for k, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    for half in images.chunk(2):
        (model(half, mode='loss')['loss'] / 2).backward()
    for k, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, whole[k], rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_the_loss_and_over_90_percent_of_the_parts_of_float32(tmp_path):
    model, images = learner(tmp_path), halves(8)
    loss, ids = model(images, mode='loss')['loss'], model.segment(images)[0]
    with torch.autocast('cpu', torch.bfloat16):
        mixed = model(images, mode='loss')
        mixed_ids = model.segment(images)[0]
    assert all(v.dtype == torch.float32 for v in mixed.values())
    torch.testing.assert_close(mixed['loss'], loss, rtol=2e-2, atol=0)
    assert (mixed_ids == ids).float().mean() > .9


def test_health_is_in_the_losses_and_coverage_is_kept(tmp_path):
    model = learner(tmp_path)
    out = model(halves(4), mode='loss')
    assert {'num_empty', 'largest_share', 'entropy', 'off_diagonal_cosine', 'logit_std'} <= set(out)
    assert model.coverage.shape == (4,) and model.coverage.sum().item() == pytest.approx(1)


def test_over_colours_changes_the_scale_of_the_loss_only(tmp_path):
    images, found = halves(4), {}
    for choice in ('mean', 'sum'):
        model = learner(tmp_path, diversity_weight=0., over_colours=choice).eval()
        found[choice] = model(images, mode='loss')
    assert found['sum']['loss'].item() == pytest.approx(3 * found['mean']['loss'].item())
    assert found['sum']['explained'].item() == pytest.approx(found['mean']['explained'].item())


def test_the_main_recipe_declares_its_choices_and_an_ablation_has_the_other_loss():
    main = REPO / 'mm_configs/semmae_parts.py'
    header = ' '.join(main.read_text().split('"""')[1].split())
    for choice in ('mean over colours', 'sum over colours', '112 pixels', '1 + scale', 'LeakyReLU'):
        assert choice in header, choice
    other = Config.fromfile(REPO / 'mm_configs/ablations/parts_vit-small_sum_colours.py')
    assert other.model.over_colours == 'sum'
    assert Config.fromfile(main).model.get('over_colours', 'mean') == 'mean'


OBJECT = dict(by='centre', threshold=.25)


def test_with_an_object_the_first_map_is_the_background_and_the_others_share_the_object(tmp_path):
    model, images = learner(tmp_path, object=OBJECT), halves(2)
    maps = model(images, mode='tensor')
    inside = model.object(model.look(images), model.grid)[0]
    assert inside.sum(1).tolist() == [16, 16]
    torch.testing.assert_close(maps[:, 0], 1 - inside, atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[:, 1:].sum(1), inside, atol=1e-5, rtol=0)
    ids, foreground = model.segment(images)
    assert ((ids == 0) == (inside == 0)).all()
    assert foreground[inside > 0].min() > foreground[inside == 0].max()


def test_with_an_object_losses_count_its_pixels_only(tmp_path):
    model, images = learner(tmp_path, object=OBJECT), halves(4)
    seen = model.look(images)
    monkey = images.clone()
    outside = model.object(seen, 8)[0].view(-1, 1, 8, 8) == 0
    monkey[torch.nn.functional.interpolate(outside.float(), (32, 32)).expand_as(images) > 0] += 5
    model.look = lambda *_, **__: seen  # the same tokens for other pixels
    assert model.loss(images)['loss'].equal(model.loss(monkey)['loss'])


def test_parts_within_the_object_are_found_on_a_textured_background(tmp_path):
    torch.manual_seed(3)
    model = learner(tmp_path, object=OBJECT, num_parts=3, blur_kernel=1)
    model.look = lambda images, ranking=None: Seen(
        torch.linspace(-1, 1, 24).expand(len(images), -1), colours(images), {}, {})
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='Adam', lr=4e-3)))
    for _ in range(80):
        losses = model(noisy_halves(16), mode='loss')
        wrapper.update_params(losses['loss'])
    assert losses['explained'] > .9  # of the object
    ids = model.segment(noisy_halves(6))[0].view(6, 8, 8)[:, 2:6, 2:6]
    left, right = ids[..., :2].flatten(1), ids[..., 2:].flatten(1)
    assert (left == left[:1, :1]).all() and (right == right[:1, :1]).all()
    assert {left[0, 0].item(), right[0, 0].item()} == {1, 2}


def noisy_halves(batch):
    """Red and blue halves of a square in the middle, on noise."""
    x = torch.randn(batch, 3, 32, 32)
    x[..., 8:24, 8:24] = 0
    x[:, 0, 8:24, 8:16] = x[:, 2, 8:24, 16:24] = 2
    return x


def colours(images):
    """(B, 64, 24): the mean colour of each patch as its token."""
    mean = torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(2).transpose(1, 2)
    return mean.repeat(1, 1, 8)


@pytest.mark.parametrize('wrong', [dict(num_parts=1), dict(softmax_over='positions')])
def test_an_object_needs_two_parts_and_a_softmax_over_parts(tmp_path, wrong):
    with pytest.raises(ValueError, match='expected at least 2 .the background and a part.'):
        learner(tmp_path, object=OBJECT, **wrong)


def test_the_token_error_counts_the_object_only(tmp_path):
    model = learner(tmp_path, object=OBJECT, token_weight=1., blur_kernel=1, decoder=dict(
        type='semmae.PaintDecoder', texture='parts', paints_tokens=True))
    images = halves(2)
    seen = model.look(images)
    inside = model.object(seen, 8)[0]
    other = seen._replace(patches=seen.patches + (inside == 0)[..., None] * torch.randn(24))
    losses = []
    for what in (seen, other):
        model.look = lambda *_, what=what, **__: what
        losses.append(model.loss(images)['loss'])
    torch.testing.assert_close(*losses)


def test_the_part_of_the_background_is_not_trained(tmp_path):
    model = learner(tmp_path, object=OBJECT)
    model.loss(halves(4))['loss'].backward()
    for weight in (model.w1, model.w2):
        moved = weight.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [False, True, True, True]
