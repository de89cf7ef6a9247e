"""What one training step of a model takes: operations, bytes that are alive, bytes that move.

Nothing is run: the model is built of tensors without memory (`FakeTensorMode`). With what a device
sustains (`probe`, or given) they make the floor: the seconds below which no step of it can be.
"""
import contextlib
import json
import math
import time
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

from ..models import layers
from ..registry import MODELS


@dataclass(frozen=True)
class Step:
    """One training step of one process.

    flops; in bytes the parameters, those that are trained, a checkpoint without optimiser, and the
    peak of what is alive besides the parameters: batch, features, gradients. width: D of the ViT.
    features: bytes alive after the forward pass, since the backward pass needs them.
    """
    flops: int
    parameters: int
    trained: int
    state: int
    peak: int
    width: int
    features: int

    def moved(self, states):
        """Bytes between memory and processor, at least (ours).

        Everything is touched as seldom as the step allows: weights are read by the forward pass;
        those that are trained also by the backward pass and the update, which writes them; their
        gradients and each of the optimiser's ``states`` are written once and read once; so are the
        features that wait for the backward pass. What is used at once is free.
        """
        return self.parameters + self.trained * (5 + 2 * states) + 2 * self.features


@dataclass(frozen=True)
class Device:
    """What one device sustains: operations a second, and bytes to and from its memory."""
    flops: float
    bandwidth: float = math.inf

    def floor(self, flops, moved):
        """Seconds at least: the longer of the two, as if computing and moving overlapped."""
        return max(flops / self.flops, moved / self.bandwidth)

    def __str__(self):
        moves = f' and {self.bandwidth / 1e9:.4g} GB/s' if math.isfinite(self.bandwidth) else ''
        return f'{self.flops / 1e12:.4g} TFLOP/s{moves}'


def probe(where='cpu', dtype='float32', seconds=1.):
    """The `Device` that is there: the fastest of many products of two matrices, and of many copies.

    ``seconds`` for each. A copy counts as one reading and one writing. The fastest, since the
    floor is what nothing falls below; float32 as torch is set (TF32 or not).
    """
    side, size = (8192, 2 ** 29) if where == 'cuda' else (1536, 2 ** 26)
    a, b = (torch.rand(side, side, device=where).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    rate = 2 * side ** 3 / fastest(lambda: torch.mm(a, b, out=out), where, seconds)
    source = torch.zeros(size, device=where)
    target = torch.zeros_like(source)
    return Device(rate, 2 * source.nbytes / fastest(lambda: target.copy_(source), where, seconds))


def fastest(action, where, seconds):
    """Seconds of the fastest call of ``action``, of 3 and all that fit into ``seconds``."""
    found, started = [], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        action()
        if where == 'cuda':
            torch.cuda.synchronize()
        found.append(time.perf_counter() - before)
    return min(found)


def step_of(cfg, batch=None, is_mixed=None):
    """The `Step` of a config, counted once for all that differ in no size.

    batch, is_mixed: instead of the config's batch size and precision.
    """
    if is_mixed is None:
        is_mixed = cfg.optim_wrapper.type == 'AmpOptimWrapper'
    how = (batch or cfg.train_dataloader.batch_size, is_mixed, cfg.get('default_scope'))
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


@contextlib.contextmanager
def fused_attention():
    """Our attention takes the fused kernel in bfloat16 too, as on a GPU and not on a CPU."""
    was, layers.attend = layers.attend, F.scaled_dot_product_attention
    try:
        yield
    finally:
        layers.attend = was


def count_step(model, batch, is_mixed, scope):
    """The `Step` of a model, given as a config, on ``batch`` images.

    Left out: the drawing of masks, optimiser, data loading.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), fused_attention(), \
            MODELS.switch_scope_and_registry(scope) as models:
        model = revert_sync_batchnorm(without_memory(models, model)).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, Alive(model) as alive:
            with torch.autocast('cpu', torch.bfloat16, enabled=is_mixed), \
                    torch.set_grad_enabled(bool(trained)):
                loss = loss_of(model, batch)
            features = alive.now
            if trained:
                loss.backward()
    return Step(counter.get_total_flops(), *map(bytes_of, (
        model.parameters(), trained, model.state_dict().values())), alive.peak, getattr(
            getattr(model, 'backbone', None), 'embed_dims', 0), features)


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


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


def encoding_of(encoder, batch, is_mixed):
    """The `Step` of part extraction: a part encoder's forward pass, images in and tokens out."""
    with FakeTensorMode(allow_non_fake_inputs=True), fused_attention():
        encoder = MODELS.build(Config(structure(encoder)))
        side = encoder.grid * encoder.patch_size
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, \
                Alive(encoder) as alive, torch.no_grad(), \
                torch.autocast('cpu', torch.bfloat16, enabled=is_mixed):
            images = torch.zeros(batch, 3, side, side)
            out = encoder(images)  # kept: it is what is alive after the pass
            features = alive.now
            del images, out
    return Step(counter.get_total_flops(), bytes_of(encoder.parameters()), 0,
                bytes_of(encoder.state_dict().values()), alive.peak, 0, features)
