"""Pre-training: the loss and the part counts of the official SemMAE code, on the same inputs.

Reference: https://github.com/ucasligang/SemMAE, commit 95b39ffe2a56a20d861a7394003cf01131cd09d7:
`MaskedAutoencoderViT` of models_mae_setting3.py, its mask_lambda from engine_pretrain_setting3.py
(1 - ((epoch + 1) / 800) ** 2). The repository has no licence, so none of its code is here. It was
run unchanged, and `OFFICIAL` holds its numbers: on the CPU, float32, torch 2.11, timm 0.3.2, with
util/pos_embed.py of facebookresearch/mae, since the repository lacks its util folder. Names that no
longer exist (torch._six, np.float) or need a GPU (torch.cuda.FloatTensor) were replaced.

Both sides make every weight, pixel, position and part from a fixed stream of numbers (`drawn`).
Norm layers have eps 1e-6 as in the official ViT-Base. The official model drew its own masks and
orders of the parts; they were recorded. The counts are of a second run with the same random
numbers, with torch.round replaced by the identity.

Differences and details of the official code:
- Position embedding: row-major on the 28x28 grid, the channels of the column before those of the
  row; ours (and mmpretrain's) has the other order. So an official checkpoint needs its own
  pos_embed and decoder_pos_embed. All else is as in MAE: pixels of a patch by row, column, colour,
  unbiased variance + 1e-6.
- Attention is among the class token and the 196 candidates: 49 in the encoder, 196 in the decoder.
  The loss is the mean over the 147 masked ones.
- It rounds 0.75 * size of each part before the interpolation, and the sum again after it. Where the
  rounded counts do not sum to 147, a sort with undefined order among equals decides the rest. Ours
  rounds once, to 147 (`round_to_budget`).
- Its defaults are mask ratio 0.6 and plain pixels; its README sets 0.75 and norm_pix_loss.
- It does not normalise pixels: its data files contain normalised ones.
- It trains under float16 autocast.
"""
import functools
import math
from zlib import crc32

import numpy as np
import pytest
import torch

from semmae.functional.losses import masked_patch_loss
from semmae.functional.masking import alpha_at, patches_to_mask_per_part
from semmae.functional.patches import (
    gather_positions,
    normalize_patches,
    patchify,
    sincos_position_embedding,
)
from semmae.registry import MODELS

GRID, PATCH, NUM_CANDIDATES, NUM_PARTS = 28, 8, 196, 7
DEPTH, DECODER_DEPTH = 3, 2
TOLERANCE = 1e-5  # of the loss, relative; measured: 1e-7

# masked: 196 bits for each image, the first candidate first, 1 is masked. part_order: the part that
# is masked first is first. counts: patches to mask in each part, before any rounding.
OFFICIAL = {
    'epoch 0': dict(
        epoch=0, seed=1, norm_pix_loss=True, loss=2.153182029724121,
        masked=['fbf75ff8775bf4dafff6fefff4d663df287ff6fdeffc6fbdf',
                '9dfbc6be379ff9f7257bfdeffffebd8f7d7feffe5d7ed9dbe'],
        part_order=[[1, 3, 0, 5, 4, 6, 2], [6, 4, 1, 5, 3, 0, 2]],
        counts=[[54.75003, 23.25001, 17.99997, 13.50001, 8.99999, 15.75001, 12.74998],
                [48.74999, 24.75001, 18.74997, 16.50001, 16.50001, 12.00001, 9.75]]),
    'epoch 399': dict(
        epoch=399, seed=2, norm_pix_loss=True, loss=2.1245551109313965,
        masked=['7bfbeeffb7fbc3ec7ef77ef0ff4dfa26fddda7fdbbf7dff37',
                'cfdf7ecefffb0fe8efdfe777ded99efdfb3767bcd7bf7e7fe'],
        part_order=[[0, 3, 1, 4, 6, 2, 5], [5, 1, 3, 2, 6, 0, 4]],
        counts=[[50.375, 26.8125, 14.625, 17.0625, 10.5625, 11.8125, 15.75],
                [51.125, 24.375, 17.875, 15.4375, 7.3125, 16.25, 14.625]]),
    'epoch 799': dict(
        epoch=799, seed=3, norm_pix_loss=True, loss=2.1751906871795654,
        masked=['ff7fbffe9ff7d7bf9bf9f9f2e674b7ffdf3efe37dfd64b1db',
                'd737ebbaf3fce5cff6fd5bffff0cbded76ff3edfeef759fff'],
        part_order=[[6, 5, 4, 3, 1, 0, 2], [0, 4, 1, 3, 6, 2, 5]],
        counts=[[43, 34, 0, 17, 23, 14, 16], [66, 29, 0, 18, 31, 0, 3]]),
    'epoch 599, plain pixels': dict(
        epoch=599, seed=4, norm_pix_loss=False, loss=2.060319423675537,
        masked=['fcb5fc55dd9abf2fb3efbff5daffbe7f6f7fafdfecdfe7bf6',
                'f6fd967ffbea3ff765bdeb7eaf2fff9fbf5ffe5f5fbd36df9'],
        part_order=[[3, 6, 4, 0, 1, 2, 5], [4, 1, 6, 2, 3, 0, 5]],
        counts=[[68.578125, 21.046875, 7.21875, 21.375, 17.8125, 2.953125, 8.015625],
                [45.890625, 23.15625, 31.171875, 13.359375, 16.03125, 4.921875, 12.46875]]),
}


def layer_names(ours, official):
    """The 12 tensors of a transformer layer."""
    pairs = {'ln1': 'norm1', 'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj', 'ln2': 'norm2',
             'ffn.layers.0.0': 'mlp.fc1', 'ffn.layers.1': 'mlp.fc2'}
    return {f'{ours}.{a}.{x}': f'{official}.{b}.{x}'
            for a, b in pairs.items() for x in ('weight', 'bias')}


# Our name -> the official one, of every tensor.
NAMES = {
    'backbone.cls_token': 'cls_token',
    'backbone.pos_embed': 'pos_embed',
    'backbone.patch_embed.projection.weight': 'patch_embed.proj.weight',
    'backbone.patch_embed.projection.bias': 'patch_embed.proj.bias',
    **{k: v for i in range(DEPTH)
       for k, v in layer_names(f'backbone.layers.{i}', f'blocks.{i}').items()},
    'backbone.ln1.weight': 'norm.weight',
    'backbone.ln1.bias': 'norm.bias',
    'decoder.decoder_embed.weight': 'decoder_embed.weight',
    'decoder.decoder_embed.bias': 'decoder_embed.bias',
    'decoder.mask_token': 'mask_token',
    'decoder.decoder_pos_embed': 'decoder_pos_embed',
    **{k: v for i in range(DECODER_DEPTH)
       for k, v in layer_names(f'decoder.decoder_blocks.{i}', f'decoder_blocks.{i}').items()},
    'decoder.ln1.weight': 'decoder_norm.weight',
    'decoder.ln1.bias': 'decoder_norm.bias',
    'decoder.decoder_pred.weight': 'decoder_pred.weight',
    'decoder.decoder_pred.bias': 'decoder_pred.bias',
}


def drawn(name, *shape):
    """float64 in [-1, 1), equal on every machine: numpy never changes this stream."""
    return 2 * np.random.RandomState(crc32(name.encode())).random_sample(shape) - 1


def weight(name, shape):
    """The tensor of this official name: biases not 0, norms not 1, attention not uniform."""
    x = drawn(name, *shape)
    if len(shape) in (2, 4):  # linear, convolution
        return x * math.sqrt(3 / math.prod(shape[1:]))
    return 0.5 * x + ('norm' in name and name.endswith('weight'))


@functools.cache
def draw_images(seed):
    """(2, 3, 224, 224); mean and spread differ between patches and colours."""
    coarse, fine = (2, 3, GRID, 1, GRID, 1), (2, 3, GRID, PATCH, GRID, PATCH)
    x = drawn(f'mean {seed}', *coarse) + (
        1.2 + drawn(f'spread {seed}', *coarse)) * drawn(f'pixels {seed}', *fine)
    return x.reshape(2, 3, GRID * PATCH, GRID * PATCH)


@functools.cache
def draw_candidates(seed):
    """(2, 196) positions on the grid, in the order of the official code's input."""
    return drawn(f'positions {seed}', 2, GRID ** 2).argsort(1)[:, :NUM_CANDIDATES]


def draw_parts(seed):
    """(2, 196) part of each candidate; the parts are of unequal size."""
    return (NUM_PARTS * drawn(f'parts {seed}', 2, NUM_CANDIDATES) ** 2).astype(int)


def is_masked(case):
    """(2, 196) for the candidates, as the official model drew it."""
    return np.array([[bit == '1' for bit in f'{int(digits, 16):0{NUM_CANDIDATES}b}']
                     for digits in case['masked']])


@pytest.fixture(scope='module')
def model():
    """Ours with the reference weights; the position embedding has its halves swapped."""
    model = MODELS.build(dict(
        type='semmae.SemMAE', masking=dict(type='semmae.RandomMasking', mask_ratio=0.75),
        backbone=dict(
            type='semmae.ViT', img_size=GRID * PATCH, patch_size=PATCH, is_pos_embed_fixed=True,
            arch=dict(embed_dims=48, num_layers=DEPTH, num_heads=3, feedforward_channels=192)),
        decoder=dict(type='semmae.MAEDecoder', grid=GRID, patch_size=PATCH, embed_dim=48,
                     decoder_embed_dim=32, decoder_depth=DECODER_DEPTH, decoder_num_heads=2)))
    state = {}
    for name, tensor in model.state_dict().items():
        if name.endswith('pos_embed'):
            rows, columns = sincos_position_embedding(tensor.shape[-1], GRID).chunk(2, -1)
            state[name] = torch.cat([columns, rows], -1)
        else:
            state[name] = torch.from_numpy(weight(NAMES[name], tensor.shape)).float()
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
def loss_of(model, case, change_images=None, change_ids=None, normalize=normalize_patches):
    """Our loss for a case of `OFFICIAL`; the keywords introduce mistakes."""
    images = torch.from_numpy(draw_images(case['seed'])).float()
    positions, masked = draw_candidates(case['seed']), is_masked(case)
    ids_keep, ids_mask = (torch.from_numpy(np.stack([row[m] for row, m in zip(positions, which)]))
                          for which in (~masked, masked))
    assert ids_keep.shape == (2, 49) and ids_mask.shape == (2, 147)
    if change_images:
        images = change_images(images)
    target = gather_positions(patchify(images, PATCH), ids_mask)
    if case['norm_pix_loss']:
        target = normalize(target)
    if change_ids:
        ids_keep, ids_mask = change_ids(ids_keep, ids_mask)
    return masked_patch_loss(model.predict(images, ids_keep, ids_mask), target).item()


@pytest.mark.parametrize('case', OFFICIAL.values(), ids=OFFICIAL)
def test_the_loss_equals_that_of_the_official_code(model, case):
    assert set(NAMES) == set(model.state_dict())
    assert loss_of(model, case) == pytest.approx(case['loss'], rel=TOLERANCE)


def test_a_change_of_any_tensor_changes_the_loss(model):
    case = OFFICIAL['epoch 399']
    unchanged = []
    for name, tensor in model.state_dict().items():
        before = tensor.clone()
        tensor.mul_(2)
        if loss_of(model, case) == pytest.approx(case['loss'], rel=10 * TOLERANCE):
            unchanged.append(name)
        tensor.copy_(before)
    assert not unchanged


MISTAKES = {
    'another patch predicted': dict(change_ids=lambda keep, mask: (keep, mask.roll(1, 1))),
    'another patch kept': dict(change_ids=lambda keep, mask: (keep.roll(1, 0), mask)),
    'rows and columns swapped': dict(change_ids=lambda keep, mask: tuple(
        x % GRID * GRID + x // GRID for x in (keep, mask))),
    'colours reversed': dict(change_images=lambda x: x.flip(1)),
    'pixels of a patch transposed': dict(change_images=lambda x: x.unflatten(3, (GRID, PATCH))
                                         .unflatten(2, (GRID, PATCH)).transpose(3, 5)
                                         .flatten(4, 5).flatten(2, 3)),
    'biased variance': dict(normalize=lambda x: (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, keepdim=True, correction=0) + 1e-6) ** 0.5),
}


@pytest.mark.parametrize('mistake', MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_positions_or_pixels_changes_the_loss(model, mistake):
    case = OFFICIAL['epoch 399']
    assert loss_of(model, case, **mistake) != pytest.approx(case['loss'], rel=10 * TOLERANCE)


@pytest.mark.parametrize('case', OFFICIAL.values(), ids=OFFICIAL)
def test_counts_of_patches_to_mask_equal_those_of_the_official_code(case):
    part_ids, masked = draw_parts(case['seed']), is_masked(case)
    sizes = np.stack([np.bincount(row, minlength=NUM_PARTS) for row in part_ids])
    counts = patches_to_mask_per_part(
        torch.from_numpy(sizes), 0.75, alpha_at((case['epoch'] + 1) / 800),
        torch.tensor(case['part_order']))
    np.testing.assert_allclose(counts, case['counts'], atol=2e-5)
    # What the official code masked, after its two roundings and its correction of the sum.
    really = [np.bincount(row[m], minlength=NUM_PARTS) for row, m in zip(part_ids, masked)]
    assert np.abs(counts.numpy() - really).max() <= 1.5
