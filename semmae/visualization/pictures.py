"""Pictures from models: parts, masks, reconstructions and attention of a few images of a folder.

B images, L patches, K candidates for masking, V visible, M masked, P parts.
Images are taken evenly spaced from the sorted list, through the view of the config without its
random steps, so that the same call draws the same picture. Each function writes ``out`` (PNG, PDF
or SVG, by its suffix) and returns its caption, which is also in the picture. learner: a
`LearnerSource`.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from PIL import Image

from ..checkpoints.load import load_whole
from ..config.options import read_config, read_dumped
from ..datasets.part_dataset import PartDataset
from ..functional.masking import part_guided_mask, random_mask, split_ids
from ..functional.parts import foreground_ids
from ..functional.patches import gather_positions, patchify, unpatchify
from ..models.masking import Candidates
from ..parts.extract import infer
from ..parts.learner import LearnerSource
from ..parts.photos import without_random_steps
from ..registry import DATASETS, MODELS
from ..reporting import figures
from ..results.results import FILE_NAME, read_results

MASK_RATIO = .75  # for masks without a pre-training config


@torch.no_grad()
def draw_parts(learner, images, out, num=6):
    """Image | encoder heads | learned parts | foreground score, as Fig. 4."""
    model, cfg = learner.load()
    batch, _ = take(cfg, images, num)
    ids, foreground = (as_maps(x) for x in infer(model, batch))
    model.parts = MODELS.build(dict(type='semmae.HeadParts'))
    heads, _ = infer(model, batch)
    caption = (f'Encoder heads: the head with the most attention of the class token at each patch. '
               f'Learned parts: argmax over the {model.num_parts} part maps. Foreground: bright is '
               f'object, each image on its own scale. {model.grid}x{model.grid} patches; a number '
               'is one head in the column of heads and one part in the column of parts.')
    figures.part_sheet(pixels_of(batch), {'encoder heads': as_maps(heads), 'learned parts': ids},
                       out, heat_maps={'foreground score': foreground}, caption=caption)
    return caption


@dataclass(frozen=True)
class MaskSource:
    """The parts that masks are drawn from.

    config: of a pre-training; parts come from ``part_store`` (default: the config's), made for the
        images. A given checkpoint must belong to this config.
    config: of a part learner; parts come from its ``checkpoint``, at ``grid`` patches a side
        (default: the config's).
    """

    config: str | Path
    checkpoint: str | Path | None = None
    part_store: str | Path | None = None
    grid: int | None = None

    def load(self, images, num):
        """(batch, part_ids (B, L), P, mask ratio, number of candidates or None, source's name)."""
        cfg = read_config(self.config)
        if cfg.model.type == 'semmae.PartLearner':
            if self.checkpoint is None or self.part_store is not None:
                raise ValueError(f'{self.config} trains a part learner: expected its checkpoint '
                                 'and no part store; to draw from a store, give a pre-training '
                                 'config')
            model, cfg = LearnerSource(self.config, self.checkpoint, self.grid).load()
            batch, _ = take(cfg, images, num)
            return (batch, infer(model, batch)[0].cpu(), model.num_parts, MASK_RATIO, None,
                    'the part learner')
        if self.grid is not None:
            raise ValueError(f'grid is {self.grid}, but {self.config} has the grid of its part '
                             'store; leave it out, or give the config and checkpoint of a part '
                             'learner')
        if self.checkpoint is None:
            require_pretraining(cfg, self.config)
        else:
            load_pretraining(self.config, self.checkpoint)
        batch, num_parts = take(cfg, images, num, self.part_store, needs_store=True)
        return (batch, batch['part_ids'].long(), num_parts, cfg.model.masking.mask_ratio,
                cfg.model.get('num_candidates'), 'the part store')


@torch.no_grad()
def draw_masks(source, images, out, alphas=(0., .5, 1.), num=4, seed=0):
    """Image | part map | random mask | part-guided mask at each of ``alphas`` (Algorithm 1).

    source: `MaskSource`. All masks of an image are made of the same random numbers.
    """
    batch, part_ids, num_parts, ratio, candidates, name = source.load(images, num)
    length = part_ids.shape[1]
    ids = candidate_ids(candidates, batch, length)
    among, (batch_size, num_ids) = gather_positions(part_ids, ids), ids.shape
    noise = noise_for(batch_size, num_ids + num_parts, seed)
    masks = {'random mask': random_mask(batch_size, num_ids, ratio, noise=noise)}
    masks.update({f'part-guided, α = {alpha:g}': part_guided_mask(
        among, num_parts, ratio, alpha, noise=noise) for alpha in alphas})
    caption = (f'Grey patches are masked, {ratio:.0%} in every mask. Parts are those of {name}. '
               'α = 0 masks patches of every part, α = 1 whole parts.' + about(ids, length))
    figures.mask_sheet(
        pixels_of(batch), {title: hidden(ids, mask, length) for title, mask in masks.items()},
        out, label_maps={'parts': as_maps(part_ids)}, caption=caption,
        dropped=dropped(ids, length))
    return caption


@torch.no_grad()
def draw_strategies(learner, images, out, num=1, seed=0):
    """Image | parts | attention | the mask of every strategy, of the same random numbers (Fig. 1).

    Parts are the learned ones; attention is that of the class token of the learner's encoder.
    """
    model, cfg = learner.load()
    batch, _ = take(cfg, images, num)
    part_ids, _ = infer(model, batch)
    model.parts = MODELS.build(dict(type='semmae.HeadParts'))
    _, attention = infer(model, batch)
    (num, length), num_parts = part_ids.shape, model.num_parts
    seen = Candidates(
        images=model.data_preprocessor(dict(inputs=batch['inputs']))['inputs'],
        grid=(model.grid, model.grid), ids=torch.arange(length).expand(num, -1),
        noise=noise_for(num, length + num_parts, seed), part_ids=part_ids.cpu(),
        scores=attention.float().cpu())
    shown: dict[str, dict] = {
        'random (MAE)': dict(type='RandomMasking'),
        'block-wise (BEiT, SiT)': dict(type='BlockwiseMasking')}
    shown |= {f'{mode} ({source})': dict(type='AttentionMasking', mode=mode) for mode, source in (
        ('nonessential', 'MST'), ('low', 'AttMask'), ('hint', 'AttMask'), ('high', 'AttMask'))}
    shown |= {f'parts, α = {alpha:g}': dict(
        type='PartGuidedMasking', num_parts=num_parts, alpha_start=alpha, alpha_end=alpha)
        for alpha in (0., .5, 1.)}
    masks = {title: as_maps(MODELS.build(dict(
        kind, type=f'semmae.{kind["type"]}', mask_ratio=MASK_RATIO))(seen))
        for title, kind in shown.items()}
    caption = (f'Grey patches are masked, {MASK_RATIO:.0%} of {model.grid}x{model.grid} in every '
               'mask. Attention (bright is more) and parts are those of the part learner; α = 0 '
               'masks patches of every part, α = 1 whole parts (SemMAE goes from the one to the '
               'other).')
    figures.mask_sheet(pixels_of(batch), masks, out, label_maps={'parts': as_maps(part_ids)},
                       heat_maps={'attention': as_maps(attention)}, caption=caption)
    return caption


@torch.no_grad()
def draw_reconstructions(config, checkpoint, images, out, num=4, seed=0, part_store=None,
                         note=''):
    """Image | visible patches | reconstruction under random masks of the config's mask ratio.

    Masks are random for every model, so that pictures of two models with the same ``seed`` show the
    same masks. part_store: needed where the config masks only the most foreground patches; default
    the config's. note: the first sentences of the caption.
    """
    model, cfg = load_pretraining(config, checkpoint)
    batch, _ = take(cfg, images, num, part_store, needs_store=model.num_candidates is not None)
    inputs = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
    length, ratio = model.num_patches, model.masking.mask_ratio
    ids = candidate_ids(model.num_candidates, batch, length)
    batch_size, num_ids = ids.shape
    mask = random_mask(batch_size, num_ids, ratio, noise=noise_for(batch_size, num_ids, seed))
    split = (gather_positions(ids, x).to(inputs.device) for x in split_ids(mask))
    caption = (f'{note}{ratio:.0%} of the patches are masked at random (seed {seed}). '
               + about_rebuilding(model) + about(ids, length))
    sheet_of(batch, rebuild(model, inputs, *split), ids, mask, length, out, caption)
    return caption


def sheet_of(batch, rebuilt, ids, mask, length, out, caption):
    """`figures.reconstruction_sheet` of rebuilt images (B, H, W, 3) and mask (B, K) among ids."""
    images, background = pixels_of(batch), dropped(ids, length)
    return figures.reconstruction_sheet(
        images, figures.hide(images, hidden(ids, mask, length), background),
        figures.hide(rebuilt, np.zeros_like(background), background), out, caption)


def draw_step(model, batch, caption=''):
    """(masks, reconstructions) of a batch of the data set: two (H, W, 3) uint8 RGB."""
    data = model.data_preprocessor(batch)
    parts, foreground = ((data.get('part_ids'), data.get('foreground')) if not model.online_parts
                         else model.online_parts(data['inputs']))
    candidates = model.candidates(data['inputs'], parts, foreground, data.get('noise'))
    mask, ids, length = model.masking(candidates), candidates.ids.cpu(), model.num_patches
    title, pale = 'mask', about(ids, length)
    if hasattr(model.masking, 'alpha'):
        title += f', α = {model.masking.alpha(model.progress):.2g}'
    caption += f'{mask[0].float().mean():.0%} of the patches are masked.'
    masks = figures.mask_sheet(
        pixels_of(batch), {title: hidden(ids, mask, length)}, None, caption=caption + pale,
        label_maps={} if parts is None else {'parts': as_maps(parts)}, dropped=dropped(ids, length))
    rebuilt = rebuild(model, data['inputs'], *model.split(candidates, mask))
    return masks, sheet_of(batch, rebuilt, ids, mask, length, None,
                           f'{caption} {about_rebuilding(model)}{pale}')


@torch.no_grad()
def draw_attention(config, checkpoint, images, out, num=4):
    """Image | attention of the class token in the last layer, one column for each head.

    config: of a pre-training (its encoder sees all patches) or of a part learner (its encoder).
    """
    cfg = read_config(config)
    if cfg.model.type == 'semmae.PartLearner':
        model, cfg = LearnerSource(config, checkpoint).load()
        encoder = model.encoder
    else:
        model, cfg = load_pretraining(config, checkpoint)
        # The part encoder reads the heads of any ViT; this one gets the pre-trained weights.
        encoder = MODELS.build(dict(type='semmae.PartEncoder', backbone=cfg.model.backbone,
                                    grid=model.backbone.patch_resolution[0]))
        encoder.backbone.load_state_dict(model.backbone.state_dict())
        encoder.to(model.decoder.mask_token.device)
    batch, _ = take(cfg, images, num)
    inputs = model.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
    heads = encoder(inputs, return_heads=True)[2].unbind(1)
    caption = ('Attention of the class token to the patches in the last layer; bright is more, '
               'each map on its own scale.')
    figures.heat_sheet(pixels_of(batch), {f'head {k}': as_maps(head)
                                          for k, head in enumerate(heads)}, out, caption)
    return caption


def draw_segmentations(work_dirs, out, num=4):
    """Image | true label map | one column for each of ``work_dirs``: its stored label maps.

    work_dirs: {title: work directory of an evaluated segmentation}; the last result of each counts.
    ``num`` evenly spaced images and true maps are taken from the test set of the first config; all
    are shown at the size of the first image. Ignored pixels are pale. FileNotFoundError if
    predictions, images or label maps are missing.
    """
    folders = {title: predictions_of(folder) for title, folder in work_dirs.items()}
    cfg = read_dumped(Path(next(iter(work_dirs.values())), 'config.py'))
    bare = (cfg.get('test_dataloader') or cfg.val_dataloader).dataset  # frozen probes have no test
    root = Path(bare.data_root, bare.data_prefix.img_path)
    if not root.is_dir():
        raise FileNotFoundError(f'no images at {root}, where the config has its test set')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        dataset = DATASETS.build(bare)
        chosen = spaced(len(dataset), num)
        infos = [dataset.get_data_info(i) for i in chosen]
        true = [dataset[i]['data_samples'].gt_sem_seg.data.squeeze(0).numpy() for i in chosen]
    names = [Path(info['img_path']).relative_to(root).with_suffix('.png') for info in infos]
    pixels: list = [np.array(Image.open(info['img_path']).convert('RGB')) for info in infos]
    size = pixels[0].shape[1::-1]
    images = np.stack([np.array(Image.fromarray(image).resize(size)) for image in pixels])
    columns = {'true labels': true, **{
        title: [np.array(Image.open(folder / name)) for name in names]
        for title, folder in folders.items()}}
    maps = {title: np.stack([resized(labels, size) for labels in column])
            for title, column in columns.items()}
    classes, ignored = dataset.metainfo['classes'], getattr(dataset, 'ignore_index', 255)
    shown = {title: np.where(found == ignored, 0, found) for title, found in maps.items()}
    overlays = figures.overlays(images, shown, opacity=.88)
    for title, found in overlays:
        found[maps[title] == ignored] = figures.DROPPED
    present = sorted(set(np.unique(np.stack(list(maps.values())))) - {ignored})
    colours = figures.part_colours(len(classes))
    caption = ('Classes: ' + ', '.join(f'{k} {classes[k]}' for k in present) + '.'
               + (' Pale pixels count as no class.' if ignored in maps['true labels'] else ''))
    figures.sheet([('image', images), *overlays], out, caption, [(k, colours[k]) for k in present])
    return caption


def resized(labels, size):
    """A label map (H, W) at ``size`` (width, height)."""
    return np.array(Image.fromarray(labels.astype(np.int32)).resize(
        size, Image.Resampling.NEAREST))


def predictions_of(work_dir):
    """The folder with the label maps of the last result in a work directory."""
    file = Path(work_dir, FILE_NAME)
    records = read_results([file])[0] if file.is_file() else []
    found = [record for record in records if record.get('predictions')]
    last = max(found, key=lambda record: record['time'])['predictions'] if found else ''
    folder = Path(work_dir, last).with_suffix('')
    if not found or not folder.is_dir():
        raise FileNotFoundError(f'no stored label maps in {work_dir}; evaluate with tools/test.py')
    return folder


def spaced(length, num):
    """At most ``num`` positions, evenly spaced from the first to the last."""
    return sorted(set(np.linspace(0, length - 1, num).round().astype(int).tolist()))


def load_pretraining(config, checkpoint):
    """The pre-trained model in evaluation mode, every tensor loaded, and its config."""
    cfg = read_config(config)
    require_pretraining(cfg, config)
    model = MODELS.build(cfg.model)
    load_whole(model, checkpoint)
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval(), cfg


def require_pretraining(cfg, config):
    """Raises ValueError for a config that trains something else."""
    if cfg.model.type != 'semmae.SemMAE':
        raise ValueError(f'{config} trains a {cfg.model.type}, expected a pre-training, for '
                         'example mm_configs/semmae_pretrain.py')


def take(cfg, images, num, part_store=None, needs_store=False):
    """(batch, P): ``num`` images below ``images`` with the parts of a store, P None without one.

    part_store: where ``needs_store``, default the config's. A store that was made for other images
    or another grid is refused.
    """
    if num < 1:
        raise ValueError(f'num is {num}, expected at least 1 image')
    own = cfg.train_dataloader.dataset.dataset
    store = (part_store or own.get('part_store')) if needs_store else part_store
    if needs_store and store is None:
        raise ValueError('no part store is given and the config names none; make one of these '
                         'images with tools/extract_parts.py and give it with --store')
    dataset = PartDataset(data_root=images, pipeline=without_random_steps(cfg), part_store=store,
                          grid=own.get('grid') if store else None)
    batch = default_collate([dataset[i] for i in spaced(len(dataset), num)])
    return batch, dataset.store and dataset.store.num_parts


def rebuild(model, inputs, ids_keep, ids_mask):
    """(B, H, W, 3) uint8 RGB: normalised images with the predictions at ids_mask (B, M)."""
    patch_size = model.backbone.patch_size
    patches = patchify(inputs, patch_size)
    predicted = model.predict(inputs, ids_keep, ids_mask).float()
    if model.norm_pix_loss:
        predicted = denormalize_patches(predicted, gather_positions(patches, ids_mask))
    patches = patches.scatter(1, ids_mask[..., None].expand_as(predicted), predicted)
    return to_pixels(unpatchify(patches, patch_size, model.decoder.grid), model.data_preprocessor)


def about_rebuilding(model):
    """The sentences of a caption on how `rebuild` shows predictions."""
    return 'Visible patches are pasted into the reconstruction. ' + (
        'The model predicts pixels normalised within each patch: each predicted patch was given '
        'the mean and variance of the true one, so its colour and contrast are not predicted.'
        if model.norm_pix_loss else 'Masked patches are shown as predicted.')


def candidate_ids(num_candidates, batch, length):
    """(B, K) positions among which masks are drawn: all, or the most foreground ones."""
    if num_candidates is None:
        return torch.arange(length).expand(len(batch['inputs']), -1)
    return foreground_ids(batch['foreground'], num_candidates)


def hidden(ids, mask, length):
    """(B, h, w) bool array: the masked patches, of mask (B, K) at the positions ids (B, K)."""
    return as_maps(torch.zeros(len(ids), length).bool().scatter(1, ids, mask.bool().cpu()))


def dropped(ids, length):
    """(B, h, w) bool array: the patches that are not candidates; ids (B, K)."""
    return as_maps(torch.ones(len(ids), length).bool().scatter(1, ids, False))


def about(ids, length):
    """The sentence of a caption on patches that are not candidates."""
    if ids.shape[1] == length:
        return ''
    return (f' Pale patches are dropped as background: only the {ids.shape[1]} most foreground of '
            f'{length} take part.')


def noise_for(batch, columns, seed):
    """(batch, columns) uniform numbers, the same on every device."""
    return torch.rand(batch, columns, generator=torch.Generator().manual_seed(seed))


def denormalize_patches(predicted, true, eps=1e-6):
    """Undo `normalize_patches` with mean and variance of the true patches (B, M, D), as MAE."""
    var = true.var(-1, keepdim=True)
    return predicted * (var + eps) ** .5 + true.mean(-1, keepdim=True)


def to_pixels(images, preprocessor):
    """Normalised images (B, 3, H, W) -> (B, H, W, 3) uint8 RGB."""
    pixels = images * preprocessor.std + preprocessor.mean
    return pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def pixels_of(batch):
    """The input images of a batch: (B, H, W, 3) uint8 RGB."""
    return batch['inputs'].permute(0, 2, 3, 1).numpy()


def as_maps(values):
    """(B, L) tensor -> (B, h, w) array; a square grid."""
    side = round(values.shape[1] ** .5)
    return values.reshape(-1, side, side).cpu().numpy()
