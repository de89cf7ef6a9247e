"""Checks labels, classes and damaged images before they can change a result."""
from itertools import zip_longest

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.seeded import SeededOrNext
from ..evaluation.segmentation import name_of, require_classes
from ..models.layers import unwrapped
from ..registry import HOOKS
from .lookup import Fields, Node


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuses labels that are not classes of the head; counts damaged images of all processes.

    Before training, each validation and each test, data set and heads must have the same number of
    classes, and a validation must have the class names of the training in the same order. Data sets
    without class names are not compared. Before each step, labels must be classes or the head's
    ``ignore_index``; `IoUMetric` checks label maps of an evaluation. After each epoch, before each
    checkpoint and at the end, the processes share the indices of damaged images; too many damaged
    images are an error. Checkpoints hold these indices in ``meta['damaged_images']``.
    """

    priority = 'VERY_HIGH'
    trained_classes: tuple[str, ...] | None = None

    def before_train(self, runner: Runner) -> None:
        data = runner.train_dataloader.dataset
        require_same_number(runner, data, 'training')
        self.trained_classes = classes_of(data)
        if runner.val_loop is not None:
            self._before_epoch(runner, 'val')

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode == 'train':
            return
        data = getattr(runner, f'{mode}_dataloader').dataset
        name = dict(val='validation', test='test')[mode]
        require_same_number(runner, data, name)
        if heads_of(runner):
            require_same_names(self.trained_classes, classes_of(data), name)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Node = None,
                     mode: str = 'train') -> None:
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        if not samples:
            return
        for head in heads_of(runner).values():
            labels = [sample.gt_label for sample in samples if 'gt_label' in sample]
            # Check all labels at once, and one by one only to name a wrong one.
            if labels and not is_within(torch.cat(labels), head.num_classes):
                for sample in samples:
                    require_classes(sample.gt_label, head.num_classes, 'label',
                                    sample.metainfo.get('img_path', name_of(sample.metainfo)))
            for sample in samples:
                if mode == 'train' and 'gt_sem_seg' in sample:
                    require_classes(sample.gt_sem_seg.data, head.num_classes, 'label',
                                    name_of(sample.metainfo), getattr(head, 'ignore_index', 255))

    def after_train_epoch(self, runner: Runner) -> None:
        tell_all(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Fields) -> None:
        # The first process alone saves the best weights, and all that mmengine's own hook saves.
        if 'optimizer' in checkpoint and any(hasattr(h, 'join_hooks') for h in runner.hooks):
            tell_all(runner)
        data = runner.train_dataloader.dataset
        if isinstance(data, SeededOrNext):
            checkpoint['meta']['damaged_images'] = data.damaged

    def after_load_checkpoint(self, runner: Runner, checkpoint: Fields) -> None:
        meta = checkpoint.get('meta', {})
        self.trained_classes = (meta.get('dataset_meta') or {}).get('classes')
        known = meta.get('damaged_images')
        if runner._resume and isinstance(known, list) \
                and isinstance(runner.train_dataloader.dataset, SeededOrNext):
            runner.train_dataloader.dataset.mark(known)

    def after_train(self, runner: Runner) -> None:
        tell_all(runner)
        data = runner.train_dataloader.dataset
        if isinstance(data, SeededOrNext) and data.damaged and is_main_process():
            runner.logger.warning(f'{len(data.damaged)} damaged images were replaced by the next '
                                  'ones; stderr has their names')


def is_within(labels: torch.Tensor, num_classes: int) -> bool:
    """Whether all labels are classes."""
    return bool(((labels >= 0) & (labels < num_classes)).all())


def heads_of(runner: Runner) -> Fields:
    """{name: head} of the heads of a model that classify."""
    model = unwrapped(runner.model)
    return {name: head for name in ('head', 'decode_head', 'auxiliary_head')
            if hasattr(head := getattr(model, name, None), 'num_classes')}


def classes_of(data: Node) -> tuple[str, ...] | None:
    """The class names of a data set, or None."""
    return (getattr(data, 'metainfo', None) or {}).get('classes')


def require_same_number(runner: Runner, data: Node, name: str) -> None:
    """Raises ValueError if a head has another number of classes than the data set."""
    classes = classes_of(data)
    for head_name, head in heads_of(runner).items():
        if classes and head.num_classes != len(classes):
            raise ValueError(
                f'{head_name}.num_classes is {head.num_classes}, the {name} set has {len(classes)} '
                'classes; expected the same. Set num_classes of the model, or classes in the data '
                "set's metainfo; where folders are classes, add an empty folder for each missing "
                'class')


def require_same_names(trained: tuple[str, ...] | None, evaluated: tuple[str, ...] | None,
                       name: str) -> None:
    """Raises ValueError if a label has another class in training than in evaluation."""
    if not trained or not evaluated:
        return
    for label, (mine, other) in enumerate(zip_longest(trained, evaluated)):
        if mine != other:
            raise ValueError(
                f'label {label} is {other!r} in the {name} set and {mine!r} in the training set; '
                'expected the same classes in the same order. Use the same folder names in both, '
                'or give both data sets the same classes in metainfo')


def tell_all(runner: Runner) -> None:
    """Shares the indices of damaged images between processes; ValueError for too many."""
    data = runner.train_dataloader.dataset
    if isinstance(data, SeededOrNext):
        flags = data.is_damaged.to(torch.uint8)  # gloo and NCCL take no bool
        all_reduce(flags, 'max')
        data.mark(flags.nonzero().flatten().tolist())
        data.require_few()
