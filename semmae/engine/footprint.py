"""What one training step of a model takes: operations, and bytes that are alive at a time.

Nothing is run: the model is built of tensors without memory (`FakeTensorMode`).
"""
import json
import weakref
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop
from torch.utils.weak import WeakIdKeyDictionary

from ..registry import MODELS


@dataclass(frozen=True)
class Step:
    """One training step of one process.

    flops; in bytes the parameters, those that are trained, a checkpoint without optimiser, and the
    peak of what is alive besides the parameters: batch, features, gradients. width: D of the ViT.
    """
    flops: int
    parameters: int
    trained: int
    state: int
    peak: int
    width: int


def step_of(cfg):
    """The `Step` of a config, counted once for all that differ in no size."""
    how = (cfg.train_dataloader.batch_size, cfg.optim_wrapper.type == 'AmpOptimWrapper',
           cfg.get('default_scope'))
    model = structure(cfg.model)
    return once(json.dumps([model, how], sort_keys=True), lambda: count_step(model, *how))


COUNTED = {}  # of this process


def once(key, make):
    """What ``make()`` gave when it was called first with this key."""
    if key not in COUNTED:
        COUNTED[key] = make()
    return COUNTED[key]


def structure(node):
    """A model's config without what changes no size."""
    if isinstance(node, dict):
        return {k: structure(v) for k, v in node.items() if k not in (
            'init_cfg', 'checkpoint', 'gamma', 'alpha_start', 'alpha_end')}
    return [structure(v) for v in node] if isinstance(node, (list, tuple)) else node


# Attention as the GPU's fused kernels do it: its matrix is not kept. Its backward pass takes two
# operations for one; the forward pass that kernels repeat there is not counted.
aten = torch.ops.aten
FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, q, k, v, *_, **__: 2 * sdpa_flop(q, k, v)}


def count_step(model, batch, is_mixed, scope):
    """The `Step` of a model, given as a config, on ``batch`` images.

    Left out: the drawing of masks, optimiser, data loading.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), \
            MODELS.switch_scope_and_registry(scope) as models:
        model = revert_sync_batchnorm(without_memory(models, model)).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, Alive(model) as alive:
            with torch.autocast('cpu', torch.bfloat16, enabled=is_mixed), \
                    torch.set_grad_enabled(bool(trained)):
                loss = loss_of(model, batch)
            if trained:
                loss.backward()
    return Step(counter.get_total_flops(), *(
        sum(t.numel() * t.element_size() for t in tensors) for tensors in (
            model.parameters(), trained, model.state_dict().values())), alive.peak, getattr(
                getattr(model, 'backbone', None), 'embed_dims', 0))


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are alive; ``peak`` is the most at a time.

    The tensors of ``model`` are there before and are not counted.
    """

    def __init__(self, model):
        super().__init__()
        self.seen = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.seen[tensor.untyped_storage()] = True
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage() not in self.seen:
                storage = tensor.untyped_storage()
                self.seen[storage] = True
                self.add(storage.nbytes())
                weakref.finalize(storage, self.add, -storage.nbytes())
        return out

    def add(self, size):
        self.now += size
        self.peak = max(self.peak, self.now)


def without_memory(models, model):
    """A model of blank tensors, inside a FakeTensorMode."""
    try:
        return models.build(Config(model))
    except DataDependentOutputException:  # mmseg's Segmenter reads its drop path out of tensors
        with unset_fake_temporarily():
            built = models.build(Config(model)).to('meta')
        return built.to_empty(device='cpu')


def loss_of(model, batch):
    """A loss with the shapes of the training's, of ``batch`` blank images, for any model of ours.

    Labels and masks are blank too: as many patches as the strategy leaves, and no strategy run.
    """
    kind = type(model).__name__
    if kind == 'PartLearner':
        side = model.encoder.grid * model.encoder.patch_size
        return model.loss(torch.zeros(batch, 3, side, side))['loss']
    side = model.backbone.img_size[0]
    images, labels = torch.zeros(batch, 3, side, side), torch.zeros(batch, dtype=torch.long)
    if kind == 'SemMAE':
        length = model.num_candidates or model.decoder.grid[0] * model.decoder.grid[1]
        visible = int(length * (1 - model.masking.mask_ratio))
        keep, mask = (labels[:, None].expand(-1, n) for n in (visible, length - visible))
        return model.predict(images, keep, mask).float().square().mean()
    if kind == 'SimMIM':
        mask = torch.zeros(batch, *model.backbone.patch_resolution)
        return model.head.loss(model.neck(model.backbone(images, mask)[0]), images, mask)
    if kind == 'EncoderDecoder':
        features, labels = model.extract_feat(images), labels[:, None, None].expand(-1, side, side)
        heads = [model.decode_head] + ([model.auxiliary_head] if model.with_auxiliary_head else [])
        return sum(F.cross_entropy(F.interpolate(
            head(features), (side, side), mode='bilinear').float(), labels) for head in heads)
    if kind == 'KeptPatchClassifier':
        features = model.backbone(images, labels[:, None].expand(-1, model.num_candidates))
        features = model.neck(features) if model.with_neck else features
    else:
        features = model.extract_feat(images)
    if hasattr(model.head, 'remember'):  # k-NN
        return features[-1].sum()
    return F.cross_entropy(model.head(features).float(), labels)


def encoder_flops(encoder):
    """FLOPs of a part encoder's forward pass on one image."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder = MODELS.build(Config(encoder))
        side = encoder.grid * encoder.patch_size
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
            encoder(torch.zeros(1, 3, side, side))
    return counter.get_total_flops()
