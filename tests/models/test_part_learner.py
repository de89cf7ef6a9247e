"""Part learning trains attention and decoder only, and finds what is there to find."""
import pytest
import torch
from mmengine.optim import build_optim_wrapper

from semmae.registry import MODELS

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
    for _ in range(60):
        loss = model(halves(16), mode='loss')['loss']
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(v.equal(frozen[k]) for k, v in model.encoder.state_dict().items())
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split('.')[0] for n in names} == {'w1', 'w2', 'wp', 'w', 'decoder'}


@pytest.mark.parametrize('axis, size', [('parts', 1), ('positions', -1)])
def test_maps_sum_to_one_over_the_axis_that_is_asked_for(tmp_path, axis, size):
    out = learner(tmp_path, softmax_over=axis)(halves(2), mode='predict')
    assert out['maps'].shape == (2, 4, 64)
    torch.testing.assert_close(out['maps'].sum(size), torch.ones(()).expand_as(
        out['maps'].sum(size)))
    assert out['part_ids'].shape == out['foreground'].shape == (2, 64)


def test_space_reaches_the_decoder_only_through_the_maps(tmp_path):
    decoder = learner(tmp_path).decoder
    image = decoder(torch.full((1, 4, 16, 16), 0.25), torch.randn(1, 24))
    inner = image[..., 8:-8, 8:-8]  # away from the zero padding
    assert inner.shape[-1] == 16
    assert torch.allclose(inner, inner[..., :1, :1].expand_as(inner), atol=1e-4)


def test_the_image_is_seen_at_the_grid_that_is_asked_for(tmp_path):
    model = learner(tmp_path)
    cls_token, patches, heads = model.encoder(torch.randn(2, 3, 32, 32), return_heads=True)
    assert cls_token.shape == (2, 24) and patches.shape == (2, 64, 24)
    assert heads.shape == (2, 3, 64) and (heads >= 0).all() and (heads.sum(-1) <= 1).all()


def test_head_attention_is_that_of_the_last_layer(tmp_path):
    model = learner(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    seen = {}
    attn = model.encoder.backbone.layers[-1].attn
    original = attn.scaled_dot_product_attention

    def explicit(q, k, v, **_):
        seen['attention'] = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return seen['attention'] @ v
    attn.scaled_dot_product_attention = explicit
    heads = model.encoder(images, return_heads=True)[2]
    attn.scaled_dot_product_attention = original
    torch.testing.assert_close(heads, seen['attention'][:, :, 0, 1:])


def test_an_encoder_without_weights_is_refused(tmp_path):
    model = learner(tmp_path)
    model.encoder.checkpoint = None
    with pytest.raises(ValueError, match='parts of an untrained network mean nothing'):
        model.encoder.init_weights()


def test_a_timm_vit_by_name_gives_timms_features(tmp_path):
    import timm
    name = 'vit_tiny_patch16_224'
    theirs = timm.create_model(name, num_classes=0).eval()
    torch.save({'teacher': {f'backbone.{k}': v for k, v in theirs.state_dict().items()}},
               tmp_path / 'ibot.pth')
    encoder = MODELS.build(dict(type='semmae.PartEncoder', backbone=name, grid=14,
                                checkpoint=str(tmp_path / 'ibot.pth')))
    encoder.init_weights()
    images = torch.randn(1, 3, 224, 224)
    cls_token, patches = encoder(images)
    tokens = theirs.forward_features(images)
    torch.testing.assert_close(cls_token, tokens[:, 0])
    torch.testing.assert_close(patches, tokens[:, 1:])
    assert encoder(images, return_heads=True)[2].shape == (1, 3, 196)


def test_a_timm_file_with_a_tensor_missing_is_refused(tmp_path):
    import timm
    name = 'vit_tiny_patch16_224'
    state = timm.create_model(name, num_classes=0).state_dict()
    state.pop('blocks.3.attn.qkv.weight')
    torch.save(state, tmp_path / 'x.pth')
    encoder = MODELS.build(dict(type='semmae.PartEncoder', backbone=name, grid=4,
                                checkpoint=str(tmp_path / 'x.pth')))
    with pytest.raises(ValueError, match='1 tensors missing .*blocks.3.attn.qkv.weight'):
        encoder.init_weights()
