"""A network of the user as a backbone, by config alone.

B images, L = h x w patches, X prefix tokens, D channels.
"""
import itertools
import re

import torch
from mmengine.model import BaseModule
from torch import nn

from ..checkpoints.load import MAY_BE_LEFT, chosen_state, listed, misfits
from ..checkpoints.read import local_file, read_checkpoint
from ..files import sha256
from ..registry import MODELS
from .outputs import formatted, grid_of, require_out_type


@MODELS.register_module()
class WrappedBackbone(BaseModule):
    """``module`` with the contract of `outputs`, whatever its attributes and outputs are called.

    module: config of a registered network that is called with images (B, 3, H, W).
    patches: where its patch features are: a key of the dict that it returns, an index of its tuple,
        or a list of these, one for each layer; None: the output itself, or the last of a tuple.
        Features are maps (B, D, h, w) or tokens (B, X + L, D).
    cls_token: key or index of a class token (B, D), or a list of these, one for each of
        ``patches``; None: the first of the prefix tokens.
    num_prefix: X, tokens before those of the patches.
    grid: (h, w) of token outputs; None: that of square patches (`outputs.grid_of`).
    blocks: name of its list of layers, for layer decay; None: its only ModuleList or
        Sequential that is in no other one.
    embed_dims: of the network; None: its own attribute, or unknown.
    init_cfg: ``dict(type='Pretrained', checkpoint=FILE, prefix='', checkpoint_key=None)`` fills
        every tensor of ``module`` with the tensor of FILE that has its name after ``prefix``, or
        raises ValueError. None: the network's own ``init_weights``, if it has one.
    """

    def __init__(self, module, patches=None, cls_token=None, num_prefix=0, grid=None,
                 out_type='featmap', is_frozen=False, *, blocks=None, embed_dims=None,
                 init_cfg=None):
        super().__init__(init_cfg)
        if module['type'] in MODELS.module_dict:  # the scope of a config is another library
            module = dict(module, type=f'semmae.{module["type"]}')
        self.module = MODELS.build(module)
        name = type(self.module).__name__
        self.patches = as_list(patches)
        self.cls_tokens = [] if cls_token is None else as_list(cls_token)
        if self.cls_tokens and len(self.cls_tokens) != len(self.patches):
            raise ValueError(f'{name}: got {len(self.cls_tokens)} outputs for cls_token, expected '
                             f'{len(self.patches)}, one for each of patches {self.patches}')
        self.num_skipped, self.num_prefix = num_prefix, 1 if self.cls_tokens else num_prefix
        require_out_type(out_type, self.num_prefix > 0, name)
        self.grid, self.out_type, self.is_frozen = grid and tuple(grid), out_type, is_frozen
        self.embed_dims = embed_dims or getattr(self.module, 'embed_dims', None)
        self.blocks, self.patch_size, self.load_report = blocks, None, None
        self.num_layers = len(self.list_of_layers()[1]) or None
        if is_frozen:
            self.requires_grad_(False)

    def init_weights(self):
        """Load the file of ``init_cfg``, or call the network's own initialisation."""
        if self.init_cfg:
            self.load_report = load_module(self.module, **self.init_cfg)
        elif hasattr(self.module, 'init_weights'):
            self.module.init_weights()
        self.is_init = True

    def train(self, mode=True):
        return super().train(mode and not self.is_frozen)

    def forward(self, images):
        """(B, 3, H, W) -> a tuple of features in the form ``out_type``, one for each layer."""
        out = self.module(images)
        extras = [picked(out, key).flatten(1)[:, None] for key in self.cls_tokens]
        extras = extras or [None] * len(self.patches)
        return tuple(self.features(picked(out, key), extra, images)
                     for key, extra in zip(self.patches, extras, strict=True))

    def features(self, layer, extra, images):
        """The features of a layer, with the class token ``extra`` (B, 1, D) or None in front."""
        if getattr(layer, 'ndim', 0) not in (3, 4) or layer.ndim == 4 and self.num_skipped:
            raise ValueError(
                f'{type(self.module).__name__}: got patch features '
                f'{tuple(getattr(layer, "shape", ())) or type(layer).__name__} with '
                f'num_prefix={self.num_skipped}, expected maps (B, D, h, w) without prefix tokens, '
                'or tokens (B, X + L, D). Set patches and num_prefix of WrappedBackbone')
        if layer.ndim == 4:
            grid, tokens = tuple(layer.shape[-2:]), layer.flatten(2).transpose(1, 2)
        else:
            grid = self.grid or grid_of(layer.shape[1] - self.num_skipped, images)
            tokens = layer
        if extra is not None:
            tokens = torch.cat([extra, tokens[:, self.num_skipped:]], 1)
        return formatted(tokens, self.num_prefix, grid, self.out_type)

    def list_of_layers(self):
        """(name, modules) of the list of layers, ('', []) if it is not known; see ``blocks``.

        Raises ValueError if ``blocks`` names no list.
        """
        lists = {name: layers for name, layers in self.module.named_modules()
                 if isinstance(layers, (nn.ModuleList, nn.Sequential))}
        if self.blocks and self.blocks not in lists:
            raise ValueError(f'{type(self.module).__name__} has no list of layers {self.blocks!r}. '
                             f'Expected blocks to be one of {sorted(lists)}')
        outer = [x for x in lists if not any(x.startswith(f'{other}.') for other in lists)]
        name = self.blocks or (outer[0] if len(outer) == 1 else '')
        return name, lists[name] if name else []

    def get_layer_depth(self, param_name, prefix=''):
        """(layer of a parameter, number of layers + 2), as in mmpretrain.

        Parameters registered before the list of layers are layer 0, those of its layer i are i + 1,
        all others are last. Without ``blocks`` a network's own ``get_layer_depth`` decides.
        Raises ValueError if the list is not known.
        """
        own, (name, layers) = getattr(self.module, 'get_layer_depth', None), self.list_of_layers()
        if own and not self.blocks:
            return own(param_name, prefix=f'{prefix}module.')
        if not name:
            raise ValueError(
                f'layer_decay_rate needs the list of layers of {type(self.module).__name__}. Set '
                'model.backbone.blocks to its name in the network, or '
                'optim_wrapper.paramwise_cfg.layer_decay_rate=1.0')
        key, last = param_name.removeprefix(f'{prefix}module.'), len(layers) + 1
        if key == param_name:  # of a head
            return last, last + 1
        if found := re.match(rf'{re.escape(name)}\.(\d+)\.', key):
            return int(found[1]) + 1, last + 1
        names = [n for n, _ in self.module.named_parameters()]
        before = itertools.takewhile(lambda n: not n.startswith(f'{name}.'), names)
        return (0 if key in before else last), last + 1


def as_list(value):
    """A list of the values, or of the one value."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def picked(out, key):
    """The output that ``key`` names; ValueError with the outputs that there are."""
    if key is None and not isinstance(out, dict):
        return out[-1] if isinstance(out, (tuple, list)) else out
    try:
        if torch.is_tensor(out):
            raise TypeError('a tensor has no outputs')
        return out[key]
    except (KeyError, IndexError, TypeError) as error:
        there = (sorted(map(str, out)) if isinstance(out, dict) else
                 f'{len(out)} outputs' if isinstance(out, (tuple, list)) else 'one tensor')
        raise ValueError(f'WrappedBackbone: the network has no output {key!r}, it returns {there}. '
                         'Set patches and cls_token to its outputs') from error


def load_module(module, type='Pretrained', checkpoint=None, prefix='', checkpoint_key=None):
    """Fill every tensor of ``module`` from a file; returns the report of `load.load_backbone`.

    Raises ValueError, and loads nothing, if a tensor is missing, of another shape or not finite, or
    if the file has tensors with ``prefix`` that the network does not have (except heads).
    """
    if type != 'Pretrained' or not checkpoint:
        raise ValueError(f'init_cfg of WrappedBackbone: got type={type!r}, checkpoint='
                         f"{checkpoint!r}, expected dict(type='Pretrained', checkpoint=FILE)")
    content, own = read_checkpoint(checkpoint), module.state_dict()
    tensors, _ = chosen_state(content, checkpoint_key, str(checkpoint))
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if wrong := misfits(state, own, may_be_left=MAY_BE_LEFT):
        raise ValueError(
            f'{checkpoint} does not fit {module.__class__.__name__}: {len(wrong)} tensors differ '
            f'from the {len(own)} of the network:{listed(wrong)}\nSet init_cfg.prefix to what '
            f'stands before the names; the file has {", ".join(sorted(tensors)[:3])}, ...')
    module.load_state_dict({k: state[k] for k in own})
    meta = content.get('meta')
    return dict(path=str(checkpoint), sha256=sha256(local_file(checkpoint)), matched=len(own),
                zeros=[], new=[], left=len(set(state) - set(own)), resized=[],
                recipe=meta.get('semmae') if isinstance(meta, dict) else None)
