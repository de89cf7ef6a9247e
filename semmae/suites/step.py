"""The needs of one training step of a model: operations, bytes in memory, bytes that move.

Nothing is computed: the model is built of tensors without memory (`FakeTensorMode`). With the rates
of a device (`suites.roofline`) they give the roofline lower bound of a step.
"""
import contextlib
import functools
import json
import weakref
from dataclasses import asdict, dataclass

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
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop
from torch.utils.weak import WeakIdKeyDictionary

from ..config.lookup import innermost, walk
from ..models import layers
from ..registry import MODELS
from . import counts


@dataclass(frozen=True)
class Step:
    """One training step of one process.

    flops: operations. In bytes: parameters, trained parameters, state (a checkpoint
    without optimiser), peak (the most in memory besides the parameters: batch, features,
    gradients), features (what the backward pass needs of the forward pass). width: D of the ViT.
    """
    flops: int
    parameters: int
    trained: int
    state: int
    peak: int
    width: int
    features: int

    def moved(self, states) -> int:
        """Lower bound of the bytes moved between memory and processor (ours).

        The forward pass reads the weights. The backward pass and the update read the trained ones
        again, and the update writes them. Their gradients, each of the optimiser's ``states`` and
        the features for the backward pass are written once and read once. Intermediate results
        that are used at once do not count.
        """
        return self.parameters + self.trained * (5 + 2 * states) + 2 * self.features


def step_of(cfg, batch=None, is_mixed=None) -> Step:
    """The `Step` of a config. batch, is_mixed: instead of the config's batch size, precision.
    """
    if is_mixed is None:
        is_mixed = cfg.optim_wrapper.type == 'AmpOptimWrapper'
    return count_step(json.dumps(structure(cfg.model), sort_keys=True),
                      batch or cfg.train_dataloader.batch_size, is_mixed, cfg.get('default_scope'),
                      view_of(cfg))


def view_of(cfg):
    """(height, width) of the images that a frozen probe encodes, or None for other models."""
    if cfg.model.type != 'semmae.FrozenProbe':
        return None
    for step in reversed(innermost(cfg.train_dataloader)['pipeline']):
        if size := step.get('crop_size') or step.get('scale'):
            width, height = (size, size) if isinstance(size, int) else size
            return height, width
    return None


def structure(node):
    """The config of a model without keys that change no size."""
    if isinstance(node, dict):
        return {k: structure(v) for k, v in node.items() if k not in (
            'init_cfg', 'checkpoint', 'pretrained', 'gamma', 'alpha_start', 'alpha_end')}
    return [structure(v) for v in node] if isinstance(node, (list, tuple)) else node


# Attention as in the fused kernels of a GPU, which do not keep its matrix. The backward pass has
# twice the operations; the forward pass that kernels repeat in it is not counted.
aten = torch.ops.aten
FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, q, k, v, *_, **__: 2 * sdpa_flop(q, k, v)}


@contextlib.contextmanager
def fused_attention():
    """Inside, our attention uses the fused kernel also in bfloat16, as on a GPU."""
    was, layers.attend = layers.attend, F.scaled_dot_product_attention
    try:
        yield
    finally:
        layers.attend = was


@functools.cache
def count_step(model, batch, is_mixed, scope, view=None) -> Step:
    """The `Step` of a model on ``batch`` images. model: its config as JSON. view: `view_of`.

    Not counted: drawing of masks, optimiser, data loading.
    """
    asked = model, batch, is_mixed, scope, view
    return Step(**counts.known(asked, lambda: asdict(counted(*asked))))


def counted(model, batch, is_mixed, scope, view) -> Step:
    """`count_step` without a cache."""
    with FakeTensorMode(allow_non_fake_inputs=True), fused_attention(), \
            MODELS.switch_scope_and_registry(scope) as models:
        model = revert_sync_batchnorm(without_memory(models, json.loads(model))).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, Alive(model) as alive:
            with torch.autocast('cpu', torch.bfloat16, enabled=is_mixed), \
                    torch.set_grad_enabled(bool(trained)):
                loss = loss_of(model, batch, view)
            features = alive.now
            if trained:
                loss.backward()
    return Step(
        counter.get_total_flops(), bytes_of(model.parameters()), bytes_of(trained),
        bytes_of(model.state_dict().values()), alive.peak,
        getattr(getattr(model, 'backbone', None), 'embed_dims', 0), features)


def bytes_of(tensors) -> int:
    """Bytes of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside: ``now`` in memory, and ``peak``, the maximum.

    The tensors of ``model`` are not counted.
    """

    def __init__(self, model):
        super().__init__()
        self.seen = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self.seen[tensor.untyped_storage()] = True
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for _, tensor in walk([out]):
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
    except DataDependentOutputException:  # mmseg's Segmenter reads its drop path from tensors
        with unset_fake_temporarily():
            built = models.build(Config(model)).to('meta')
        return built.to_empty(device='cpu')


def loss_of(model, batch, view=None):
    """A loss of ``batch`` blank images with the shapes of the training, for any model of ours.

    Labels are blank too. Masks have the size of the strategy, which is not run.
    """
    kind = type(model).__name__
    if kind == 'PartLearner':
        side = model.encoder.grid * model.encoder.patch_size
        return model.loss(torch.zeros(batch, 3, side, side))['loss']
    if view:  # a frozen probe, whose heads cost little
        return sum(out.float().sum() for out in model.backbone(torch.zeros(batch, 3, *view)))
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


def encoding_of(encoder, batch, is_mixed) -> Step:
    """The `Step` of part extraction: the forward pass of a part encoder, from images to tokens."""
    encoder = structure(encoder)
    asked = 'encoding', json.dumps(encoder, sort_keys=True), batch, is_mixed
    return Step(**counts.known(asked, lambda: asdict(encoding_counted(encoder, *asked[2:]))))


def encoding_counted(encoder, batch, is_mixed) -> Step:
    """`encoding_of` without a cache."""
    with FakeTensorMode(allow_non_fake_inputs=True), fused_attention():
        encoder = without_memory(MODELS, encoder)
        side = encoder.grid * encoder.patch_size
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, \
                Alive(encoder) as alive, torch.no_grad(), \
                torch.autocast('cpu', torch.bfloat16, enabled=is_mixed):
            images = torch.zeros(batch, 3, side, side)
            out = encoder(images)  # stays in memory, so it counts
            features = alive.now
            del images, out
    return Step(counter.get_total_flops(), bytes_of(encoder.parameters()), 0,
                bytes_of(encoder.state_dict().values()), alive.peak, 0, features)
