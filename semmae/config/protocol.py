"""The protocol of a run: all that must be equal for two numbers to be comparable."""
import hashlib
import re
from pathlib import Path

from mmengine.runner import Runner

from ..datasets.geometry import Role, role_of
from ..models.layers import unwrapped
from .identity import (
    evaluation_fields,
    images_fingerprint,
    pipeline_parts,
    training_data,
    training_fields,
)
from .lookup import Fields, Node, at, innermost, short


def evaluated_data(runner: Runner) -> Node:
    """The data set of the test if there is one, else of the validation, or None."""
    loaders = (getattr(getattr(runner, name, None), 'dataloader', None)
               for name in ('_test_loop', '_val_loop'))
    return next((loader.dataset for loader in loaders if loader is not None), None)


def split_of(runner: Runner) -> Fields:
    """The evaluated images: how many, and a hash of their names."""
    dataset = evaluated_data(runner)
    names = (Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset)))
    return dict(split_images=len(dataset),
                split_sha256=hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12])


WITHOUT_TRAINING = ('semmae.KNNLoop', 'semmae.ProbeLoop')
# Fields of a training. k-NN trains nothing, and its batches change nothing.
OF_TRAINING = ('precision', 'batch_size', 'norm_batch', 'optim_wrapper.', 'param_scheduler.',
               'custom_hooks.', 'default_hooks.', 'train_cfg.', 'train_dataloader.drop_last',
               'train_dataloader.sampler.', 'env_cfg.')


def protocol_of(runner: Runner, weights: Fields, size: Fields, is_test: bool = False) -> Fields:
    """All that must be equal for two numbers to be comparable, as plain data.

    These are facts of the run, and every key of the resolved config that can change a weight or a
    metric (`identity.training_fields`). weights: `Weights.describe`.
    """
    cfg = runner.cfg
    measured = dict(dataset=cfg.result.dataset, split=cfg.result.split)
    if cfg.model.type == 'semmae.PartLearner':
        learner = unwrapped(runner.model)
        return dict(measured, grid=learner.grid, num_parts=learner.num_parts,
                    test_pipeline=pipeline(cfg.test_dataloader),
                    encoder=(weights.get('encoder') or {}).get('name'),
                    background=cfg.result.get('background'))
    protocol = dict(
        measured, **{k: v for k, v in size.items() if k != 'pixels'},
        train_images=images_fingerprint(training_data(runner), with_sizes=True),
        val_images=images_fingerprint(evaluated_data(runner), with_sizes=True),
        **training_fields(cfg),
        **evaluation_fields(cfg, is_test), **probe_parts(runner),
        pretraining={k: weights.get(k) for k in ('epochs', 'num_train', 'batch_size')})
    if at(cfg, 'train_cfg.type') in WITHOUT_TRAINING:
        kept = 'train_cfg.' if at(cfg, 'train_cfg.type') == 'semmae.ProbeLoop' else ()
        protocol = {k: v for k, v in protocol.items()
                    if not k.startswith(OF_TRAINING) or k.startswith(kept)}
    if is_dense(cfg):
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        layers = getattr(backbone, 'layers', None)
        depth = len(layers) if layers is not None else getattr(backbone, 'num_layers', None)
        is_probe = at(cfg, 'train_cfg.type') == 'semmae.ProbeLoop'
        protocol = without_network(protocol, is_probe, depth)
    return protocol


# Of a dense result: what follows from the width of the network.
WIDTH = re.compile(r'model\.(neck\.(embed_dim|input_features)|\w*head\.in_channels|'
                   r'probes?\..*num_heads|data_preprocessor\.(mean|std))$')
BACKBONE = 'model.backbone.'
# Options of a backbone that belong to the measurement, and those that change no feature.
MEASURED = ('final_norm', 'out_indices', 'drop_path_rate', 'is_frozen')
UNSEEN = ('img_size', 'out_type', 'init_cfg', 'pretrained')


def is_dense(cfg: Node) -> bool:
    """Whether the results of a config stand in the dense table, which compares backbones."""
    return 'dense' in (at(cfg, 'result.tables') or ())


def network_fields(cfg: Node) -> Fields:
    """{field: value} of the network of a dense result and of its normalisation of images.

    They belong to the identity of the backbone. In the protocol they would keep the results of two
    backbones from being compared.
    """
    return {key: value for key, value in training_fields(cfg).items()
            if key.startswith('model.data_preprocessor.') and key.endswith(('.mean', '.std'))
            or key.startswith(BACKBONE) and option_of(key) not in (*MEASURED, *UNSEEN)}


def option_of(key: str) -> str:
    """'arch' of 'model.backbone.arch.num_heads'."""
    return key[len(BACKBONE):].split('.')[0]


def without_network(protocol: Fields, is_probe: bool, depth: int | None) -> Fields:
    """The protocol of a dense result, in which layers are shares of the depth.

    The last layers, as a frozen probe reads them, need no field: ``model.layers`` says how many.
    """
    kept = {k: v for k, v in protocol.items() if not (WIDTH.match(k) or k == 'pretraining') and (
        not k.startswith(BACKBONE) or option_of(k) in (MEASURED[:2] if is_probe else MEASURED))}
    layers = kept.pop(f'{BACKBONE}out_indices', None)
    if layers and depth:
        layers = [i % depth for i in layers]
        if not is_probe or layers != list(range(depth - len(layers), depth)):
            kept[f'{BACKBONE}out_indices'] = [round((i + 1) / depth, 3) for i in layers]
    return kept


START = re.compile(r'\.(init_cfg|pretrained)(\.|$)')  # weights that a tested checkpoint replaces


def probe_parts(runner: Runner) -> Fields:
    """The part stores that choose the patches of a probe, in training and evaluation."""
    return (pipeline_parts('train_parts', training_data(runner))
            | pipeline_parts('val_parts', evaluated_data(runner)))


def is_batch_norm(*types: Node) -> bool:
    """Whether the types are BN and SyncBN, which are the same in evaluation."""
    return set(map(str, types)) == {'BN', 'SyncBN'}


def protocol_of_test(trained: Fields, tested: Fields) -> Fields:
    """The protocol of a test: that of the training, with the fields that the test decides.

    Keys of the model that the test changed are under ``test.``.
    """
    own = ('dataset', 'split', 'val_')
    changed = {f'test.{k}': tested.get(k, 'absent') for k in sorted({*trained, *tested})
               if k.startswith('model.') and trained.get(k) != tested.get(k)
               and not START.search(k) and not is_batch_norm(trained.get(k), tested.get(k))}
    return ({k: v for k, v in trained.items() if not k.startswith(own)}
            | {k: v for k, v in tested.items() if k.startswith(own)}
            | (changed if 'precision' in trained else {}))


def pipeline(loader: Node) -> list[str]:
    """The transforms of a data loader, a short text each, without reading, packing and paths."""
    return [short({k: v for k, v in step.items() if k not in ('store', 'root', 'cache')})
            for step in innermost(loader).get('pipeline') or []
            if role_of(step) not in (Role.READ, Role.PACK)]
