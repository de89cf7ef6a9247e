"""Any vision transformer of timm as a backbone of mmpretrain, mmseg and part learning.

B images, L = h x w patches, X prefix tokens (class token, registers), D channels.
"""
import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch._subclasses.fake_tensor import DataDependentOutputException

from ..checkpoints.timm_models import load_timm
from ..progress_bar import is_first, shown_at_once
from ..registry import MODELS
from .outputs import formatted, require_out_type

EXPECTED = ('Expected a vision transformer, as vit_small_patch14_dinov2. To see the names: '
            'python -c "import timm; print(*timm.list_models(\'*vit*\'), sep=chr(10))"')
STEM = re.compile(r'^(cls_token|reg_token|mask_token|pos_embed|dist_token|patch_embed|norm_pre|'
                  r'rope)')


@MODELS.register_module()
class TimmViT(BaseModule):
    """timm's ViT ``model_name``; its features are those of timm's ``forward_intermediates``.

    DINOv2 and DINOv3 with registers and rotary positions, SigLIP, DeiT-III, EVA-02, I-JEPA, MAE and
    all others of timm that have patches and blocks. The contract is in `outputs`.

    img_size: pixels a side (or (height, width)) for which the position embedding is made; None:
        timm's. Other sizes are resized by timm in each forward pass. Sides that are no multiple of
        the patch size are padded with zeros at the right and bottom (ours), and the log says so.
    out_indices: layers from 0, or from the end with negative numbers.
    out_type: 'cls_token', 'avg_featmap', 'featmap' or 'raw'; None: the class token if there is one,
        else the mean of the patches.
    final_norm: the last layer is followed by the network's norm, as in ``forward_features``; the
        layers before are not normalised. BEiT and EVA-02 of timm normalise only a pooled feature;
        global_pool='token' gives them this norm.
    is_frozen: no parameter is trained, and the network stays in evaluation mode.
    mean, std: of the pixels (0 to 255), with which images must be normalised; None: timm's. Reading
        a config puts them into ``model.data_preprocessor`` (`config.normalization`).
    pretrained: True downloads timm's weights; a FILE is the same as ``init_cfg``.
    init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` loads FILE strictly
        (`checkpoints.timm_models.load_timm`) or raises; the report is in ``load_report``.
    more: arguments of timm's model, for example depth=2 in tests.

    Raises ValueError for a name that timm does not have, for a network without patches, and for
    layers that it does not have.
    """

    def __init__(self, model_name, img_size=None, out_indices=(-1,), is_frozen=False,
                 drop_path_rate=0., init_cfg=None, *, pretrained=None, out_type=None,
                 final_norm=True, mean=None, std=None, **more):
        if isinstance(pretrained, str):
            init_cfg, pretrained = dict(type='Pretrained', checkpoint=pretrained), False
        super().__init__(init_cfg)
        self.model_name, self.is_frozen = model_name, is_frozen
        self.is_downloaded = bool(pretrained)
        self.vit = timm_vit(model_name, img_size, drop_path_rate=drop_path_rate, **more)
        self.has_class_token = getattr(self.vit, 'cls_token', None) is not None
        self.out_type = out_type or ('cls_token' if self.has_class_token else 'avg_featmap')
        require_out_type(self.out_type, self.has_class_token, f"timm's {model_name}")
        self.num_layers, self.embed_dims = len(self.vit.blocks), self.vit.embed_dim
        self.out_indices = layers_of(out_indices, self.num_layers, model_name)
        self.final_norm, self.num_prefix = final_norm, self.vit.num_prefix_tokens
        embed = self.vit.patch_embed
        self.patch_size, self.patch_resolution = embed.patch_size[0], tuple(embed.grid_size)
        self.img_size, self.takes_any_size = tuple(embed.img_size), self.vit.takes_any_size
        self.mean, self.std = normalization(model_name, mean, std)
        self.load_report, self.is_told = None, False
        for name, parameter in self.vit.named_parameters():
            if is_frozen or not self.is_used(name):  # DDP would wait for its gradient
                parameter.requires_grad_(False)

    def is_used(self, name):
        """Whether a feature depends on timm's parameter of this name."""
        last = self.out_indices[-1]
        if name.startswith('norm.'):
            return self.final_norm and last == self.num_layers - 1
        block = re.match(r'blocks\.(\d+)\.', name)
        return int(block[1]) <= last if block else not name.startswith(('fc_norm.', 'attn_pool.'))

    def init_weights(self):
        """Load the file of ``init_cfg``, or download; without both the weights stay random.

        Raises ValueError for another ``init_cfg``, for a download that fails, and the errors of
        `load_timm`.
        """
        if self.is_downloaded:
            self.load_report = download(self.vit, self.model_name)
        elif self.init_cfg:
            if self.init_cfg.get('type') != 'Pretrained' or not self.init_cfg.get('checkpoint'):
                raise ValueError(
                    f"init_cfg of TimmViT: got {self.init_cfg}, expected dict(type='Pretrained', "
                    'checkpoint=FILE), or None for random weights. From the command line: '
                    '--cfg-options model.backbone.init_cfg.checkpoint=FILE')
            self.load_report = load_timm(self.vit, self.init_cfg['checkpoint'],
                                         self.init_cfg.get('checkpoint_key'))
        self.is_init = True

    def train(self, mode=True):
        return super().train(mode and not self.is_frozen)

    def forward(self, images):
        """(B, 3, H, W) -> a tuple of features, one for each of ``out_indices``.

        Raises ValueError for images of another size if the network takes only one.
        """
        images, grid = self.fitted(images)
        is_whole = self.num_layers - 1 in self.out_indices and self.final_norm
        found = self.vit.forward_intermediates(
            images, indices=self.out_indices, output_fmt='NLC', stop_early=not is_whole,
            return_prefix_tokens=self.num_prefix > 0, intermediates_only=not is_whole)
        last, layers = found if is_whole else (None, found)
        tokens = [torch.cat(layer[::-1], 1) if self.num_prefix else layer for layer in layers]
        if is_whole:
            tokens[-1] = last
        return tuple(formatted(x, self.num_prefix, grid, self.out_type) for x in tokens)

    def fitted(self, images):
        """(images padded to a multiple of the patch size, their grid (h, w))."""
        size, patch = tuple(images.shape[-2:]), self.patch_size
        if not self.takes_any_size and size != self.img_size:
            wanted = size[0] if size[0] == size[1] else size
            raise ValueError(
                f"timm's {self.model_name} takes images of {self.img_size[0]}x{self.img_size[1]} "
                f'pixels only, got {size[0]}x{size[1]}. Set img_size={wanted} of the backbone, or '
                'the size in the pipeline')
        missing = [-side % patch for side in size]
        if any(missing):
            if not self.is_told:
                self.is_told = True
                MMLogger.get_current_instance().warning(
                    f'images of {size[0]}x{size[1]} pixels are padded with zeros to '
                    f'{size[0] + missing[0]}x{size[1] + missing[1]}, a multiple of the patch size '
                    f'{patch} of {self.model_name}')
            images = F.pad(images, (0, missing[1], 0, missing[0]))
        return images, tuple(-(-side // patch) for side in size)

    def get_layer_depth(self, param_name, prefix=''):
        """(layer of a parameter, number of layers + 2), as in mmpretrain: 0 is the embedding."""
        num_layers = self.num_layers + 2
        name = param_name.removeprefix(prefix + 'vit.')
        if name == param_name:
            return num_layers - 1, num_layers
        if STEM.match(name):
            return 0, num_layers
        found = re.match(r'blocks\.(\d+)\.', name)
        return (int(found[1]) + 1 if found else num_layers - 1), num_layers


def timm_vit(name, img_size=None, **more):
    """timm's ViT of this name, untrained, with ``takes_any_size``; ValueError if there is none."""
    size = {} if img_size is None else dict(img_size=img_size)
    require_known(name)
    for takes_any_size in (True, False):
        any_size = dict(dynamic_img_size=True) if takes_any_size else {}
        try:
            vit = timm.create_model(name, num_classes=0, **any_size, **size, **more)
            break
        except DataDependentOutputException:  # of a dry run without memory, not of the name
            raise
        except (TypeError, RuntimeError, AssertionError, ValueError) as error:
            if takes_any_size and isinstance(error, TypeError):
                continue  # a network without this argument
            raise ValueError(f"timm builds no ViT '{name}' with {dict(size, **more)}: {error}. "
                             f'{EXPECTED}') from error
    lacking = [part for part in ('patch_embed', 'blocks', 'num_prefix_tokens', 'embed_dim')
               if not hasattr(vit, part)]
    if not lacking and 'return_prefix_tokens' not in inspect.signature(
            vit.forward_intermediates).parameters:
        lacking = ['class token among its patch tokens']
    if lacking:
        raise ValueError(f"timm's '{name}' is a {type(vit).__name__} without "
                         f'{", ".join(lacking)}. {EXPECTED}')
    vit.takes_any_size = takes_any_size
    return vit


def require_known(name):
    """Raises ValueError for a name or a tag (``name.tag``) that timm does not have."""
    try:
        if isinstance(name, str) and timm.is_model(name) and timm.get_pretrained_cfg(name):
            return
        why = ''
    except RuntimeError as error:  # the tag
        why = f' ({error})'
    alike = get_close_matches(str(name), timm.list_models(), 1)
    why += f'; did you mean {alike[0]}?' if alike and alike[0] != name else '.'
    raise ValueError(f'timm has no model {name!r}{why} {EXPECTED}')


def layers_of(out_indices, depth, name):
    """The layers as numbers from 0, ascending; ValueError for a layer that is not there."""
    given = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    if not given or not all(-depth <= i < depth for i in given):
        raise ValueError(f'{name} has {depth} layers: got out_indices={out_indices}, expected '
                         f'numbers from {-depth} to {depth - 1}')
    found = [i % depth for i in given]
    if found != sorted(set(found)):
        raise ValueError(f'{name}: got out_indices={out_indices}, expected different layers in '
                         'ascending order')
    return found


def normalization(name, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
    """(mean, std) of the pixels, 0 to 255, with which timm trained ``name``, or those given."""
    require_known(name)
    cfg: Any = timm.get_pretrained_cfg(name)
    return tuple([float(x) for x in given] if given else [round(255 * x, 3) for x in known]
                 for given, known in ((mean, cfg.mean), (std, cfg.std)))


def download(vit, name):
    """Fill ``vit`` with timm's weights; returns a load report. ValueError without a network."""
    try:
        with shown_at_once():
            if is_first():  # the hub shows a bar, but on a terminal only
                print(f"weights of timm's {name}: from the cache, or downloaded", file=sys.stderr)
            source = timm.create_model(name, num_classes=0, pretrained=True,
                                       img_size=tuple(vit.patch_embed.img_size))
        vit.load_state_dict(source.state_dict())
    except Exception as error:  # of the network, the hub and the file system
        raise ValueError(f"timm cannot download the weights of '{name}': {type(error).__name__}: "
                         f'{str(error)[:200]}. Get the file elsewhere and give it: '
                         '--checkpoint FILE, or in a config model.backbone.init_cfg') from error
    digest = hashlib.sha256()
    for key, value in sorted(source.state_dict().items()):
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return dict(path=f'timm:{source.pretrained_cfg.get("hf_hub_id") or name}',
                sha256=digest.hexdigest(), matched=len(source.state_dict()), zeros=[], new=[],
                left=0, resized=[], recipe=None)
