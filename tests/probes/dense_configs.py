"""The configs of mm_configs/dense at toy size: a tiny ViT of timm, few images, few steps."""
import shutil

from mmengine.config import Config

from ..datasets.dense import DENSE, copy_of
from ..tiny import REPO

TINY = dict(depth=2, embed_dim=48, num_heads=2)  # arguments of timm's model
ARCH = dict(embed_dims=48, num_layers=2, num_heads=2, feedforward_channels=96)  # of semmae.ViT
VIT = 'vit_small_patch14_dinov2'
SIDE = 56  # pixels a side: 4 x 4 patches
SIZE = (64, 96)  # of photos and label maps
FEW = dict(epochs=2, C=(.1, 1.), max_iter=200, lr=(1e-3, 1e-2))


def cub_of(toy, root, classes=4):
    """A copy of toy CUB in which 16 training and 16 test images have few classes."""
    shutil.copytree(toy / 'CUB_200_2011', root, symlinks=True)
    labels = root / 'image_class_labels.txt'
    labels.write_text(''.join(f'{i + 1} {1 + i // 2 % classes}\n' for i in range(32)))
    return root


def data_of(leaf, toy, root):
    """The folder of the data set of a config, written if it is not in the toy set."""
    name = leaf.split('dense_')[-1].removesuffix('.py').removeprefix('upernet_')
    if name.startswith('cub'):
        return cub_of(toy, root / 'cub')
    if name in ('ade20k', 'imagenet', 'tiny_imagenet'):
        return toy / ('ADEChallengeData2016' if name == 'ade20k' else 'imagenet')
    copy_of(root, name, count=4, size=SIZE)
    return root / DENSE[name][0]


def shrink_probes(leaf, toy, root):
    """The config of frozen probes ``leaf`` with toy data, a tiny ViT, and few steps of training."""
    cfg = Config.fromfile(REPO / leaf)
    home = data_of(leaf, toy, root)
    model = cfg.model
    layers = [-2, -1] if len(model.layers) > 1 else [-1]
    is_timm = model.backbone.type == 'semmae.TimmViT'
    model.backbone.update(TINY if is_timm else dict(arch=ARCH), img_size=SIDE, out_indices=layers,
                          init_cfg=None)
    if len(model.layers) > 1:
        model.layers = layers
    for probe in filter(None, model.probes.values()):
        few = {k: v for k, v in FEW.items() if k in accepted(probe)}
        probe.update(few, **({'k': (1, 3)} if 'KNN' in probe.type else {}))
        if probe.get('fraction'):
            probe.fraction = .75
    for split, loader in dict(train=cfg.train_dataloader, val=cfg.val_dataloader).items():
        loader.update(batch_size=2, num_workers=0)
        loader.dataset.data_root = str(home / split if 'imagenet' in leaf else home)
        for step in loader.dataset.pipeline:
            kind = step.type.split('.')[-1]
            if kind == 'CenterCrop':
                step.crop_size = SIDE
            elif kind in ('Resize', 'ResizeEdge'):
                step.scale = (SIDE, 42) if kind == 'Resize' else SIDE
    cfg.train_cfg.store = str(root / 'features')
    return cfg


def accepted(probe):
    """The arguments of `FEW` that a probe takes."""
    return dict(LinearProbe=('epochs', 'lr'), AttentiveProbe=('epochs', 'lr'),
                LogisticProbe=('C', 'max_iter'), LinearSegProbe=('epochs', 'lr'),
                LogisticSegProbe=('C', 'max_iter'), LinearDepthProbe=('epochs', 'lr')).get(
                    probe.type.removeprefix('semmae.'), ())
