"""The shared ViT: equal to mmpretrain's, interpolated and relative positions, checkpoints."""
import pytest
import torch
from mmpretrain.models import VisionTransformer

from semmae.checkpoints.load import resize_position_embedding
from semmae.models.backbone import relative_positions
from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)
SIZE = dict(arch=ARCH, img_size=32, patch_size=8)


def vit(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(dict(dict(type='semmae.ViT', out_type='raw', **SIZE), **kwargs))
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'featmap', 'avg_featmap'])
@pytest.mark.parametrize('side', [32, 48])
def test_features_equal_mmpretrains_vit_with_the_same_weights(out_type, side):
    ours = vit(out_type=out_type)
    theirs = VisionTransformer(out_type=out_type, **SIZE)
    theirs.eval()  # it returns None
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, side, side)
    torch.testing.assert_close(ours(images)[0], theirs(images)[0], rtol=1e-5, atol=1e-6)


def test_layers_may_be_a_tuple_and_are_counted_from_the_end():
    images = torch.randn(1, 3, 32, 32)
    model = vit(out_indices=(-2, -1))
    assert model.out_indices == [1, 2]
    assert [f.tolist() for f in model(images)] == [
        f.tolist() for f in vit(out_indices=[1, 2])(images)]


def test_an_offset_changes_the_features_only_at_another_size():
    plain, offset = vit(), vit(interpolate_offset=0.1)
    same, other = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 64)
    assert plain(same)[0].equal(offset(same)[0])
    assert not torch.allclose(plain(other)[0], offset(other)[0], atol=1e-3)


@pytest.mark.parametrize('offset', [0., 0.1])
def test_a_checkpoint_is_resized_to_another_grid_as_in_the_forward_pass(offset, tmp_path):
    small = vit(interpolate_offset=offset)
    torch.save(small.state_dict(), tmp_path / 'x.pth')
    large = vit(interpolate_offset=offset, img_size=48,
                init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    images = torch.randn(1, 3, 48, 48)
    assert large.pos_embed.shape == (1, 37, 24)
    torch.testing.assert_close(small(images)[0], large(images)[0])


def test_interpolation_by_an_offset_samples_where_ibot_does():
    # Bilinear interpolation of a ramp of slope 1 gives the sampled place. Output i of a grid twice
    # as large is at (i + 0.5) * 4 / 8.1 - 0.5 of the old one.
    ramp = torch.arange(4.).expand(4, 4).reshape(1, 16, 1)
    places = resize_position_embedding(ramp, (4, 4), (8, 8), 0, offset=0.1, mode='bilinear')
    wanted = ((torch.arange(8) + 0.5) * 4 / 8.1 - 0.5).clamp(0, 3)
    torch.testing.assert_close(places.view(8, 8), wanted.expand(8, 8))


def test_a_trained_position_embedding_learns_through_the_interpolation():
    model = vit(interpolate_offset=0.1)
    for _ in range(2):  # no state from one step to the next
        model(torch.randn(1, 3, 48, 48))[0][:, 1:].square().sum().backward()
    assert (model.pos_embed.grad[:, 1:] != 0).all()


@pytest.mark.parametrize('offset', [-0.1, 1])
def test_an_offset_of_a_whole_patch_is_refused(offset):
    with pytest.raises(ValueError, match=f'interpolate_offset={offset}: expected 0'):
        vit(interpolate_offset=offset)


def test_relative_position_bias_starts_as_the_plain_network_and_has_an_effect():
    plain, biased = vit(), vit(rel_pos_bias=True)
    biased.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(images)[0], biased(images)[0], rtol=1e-5, atol=1e-6)
    biased.layers[0].attn.relative_position_bias_table.data.normal_()
    assert not torch.allclose(plain(images)[0], biased(images)[0], atol=1e-3)


def test_relative_positions_share_a_bias_exactly_where_offsets_are_equal():
    index = relative_positions(3, 4)
    at = [(y, x) for y in range(3) for x in range(4)]
    offsets = {}
    for i, a in enumerate(at):
        for j, b in enumerate(at):
            offsets.setdefault((a[0] - b[0], a[1] - b[1]), set()).add(int(index[1 + i, 1 + j]))
    rows = [r.pop() for r in offsets.values() if len(r) == 1]
    assert len(rows) == len(offsets) == len(set(rows)) == 5 * 7
    assert index.max() == 5 * 7 + 2 and {int(index[0, 0]), int(index[0, 1]), int(index[1, 0])
                                         }.isdisjoint(rows)


def test_a_frozen_backbone_trains_nothing():
    assert not any(p.requires_grad for p in vit(is_frozen=True).parameters())


def test_feature_maps_of_kept_patches_are_refused():
    with pytest.raises(ValueError, match='needs all patches'):
        vit(out_type='featmap')(torch.randn(1, 3, 32, 32), torch.tensor([[0, 1]]))


def test_an_init_cfg_without_a_checkpoint_says_how_to_give_one():
    with pytest.raises(ValueError, match='model.backbone.init_cfg.checkpoint=FILE'):
        vit(init_cfg=dict(type='Pretrained', checkpoint=''))


def test_an_init_cfg_can_choose_the_student_of_a_file(tmp_path):
    teacher = vit().state_dict()
    torch.save(dict(teacher=teacher, student=dict(teacher, cls_token=teacher['cls_token'] + 1)),
               tmp_path / 'x.pth')
    model = vit(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'),
                              checkpoint_key='student'))
    assert model.cls_token.equal(teacher['cls_token'] + 1)


def test_a_missing_checkpoint_is_an_error():
    with pytest.raises(FileNotFoundError, match='no checkpoint at nowhere.pth'):
        vit(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
