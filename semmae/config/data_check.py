"""Labels, classes and damaged images are looked at before they can change a number."""
from itertools import zip_longest

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook

from ..datasets.image_reading import SeededOrNext
from ..evaluation.segmentation import name_of, require_classes
from ..models.layers import unwrapped
from ..registry import HOOKS


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuses labels that are no class of the head, and counts damaged images of all processes.

    Before training, and before each validation and test: data set and heads have the same number
    of classes; those of a validation are called as in training, in the same order. Data sets that
    tell no classes are not compared. Before each step: labels are classes, or the head's
    ``ignore_index``; label maps of an evaluation are `IoUMetric`'s. After each epoch, before each
    checkpoint and at the end the processes tell each other which images were damaged, and more
    than allowed are an error. ``meta['damaged_images']`` of checkpoints: their indices.
    """

    priority = 'VERY_HIGH'
    trained_classes = None

    def before_train(self, runner):
        data = runner.train_dataloader.dataset
        require_same_number(runner, data, 'training')
        self.trained_classes = classes_of(data)
        if runner.val_loop is not None:
            self._before_epoch(runner, 'val')

    def _before_epoch(self, runner, mode='train'):
        if mode == 'train':
            return
        data = getattr(runner, f'{mode}_dataloader').dataset
        name = dict(val='validation', test='test')[mode]
        require_same_number(runner, data, name)
        if heads_of(runner):
            require_same_names(self.trained_classes, classes_of(data), name)

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train'):
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        for head in heads_of(runner).values() if samples else ():
            labels = [sample.gt_label for sample in samples if 'gt_label' in sample]
            # One look at all of them; only where one is wrong, at each for its name.
            if labels and not is_within(torch.cat(labels), head.num_classes):
                for sample in samples:
                    require_classes(sample.gt_label, head.num_classes, 'label',
                                    sample.metainfo.get('img_path', name_of(sample.metainfo)))
            for sample in samples if mode == 'train' else ():
                if 'gt_sem_seg' in sample:
                    require_classes(sample.gt_sem_seg.data, head.num_classes, 'label',
                                    name_of(sample.metainfo), getattr(head, 'ignore_index', 255))

    def after_train_epoch(self, runner):
        tell_all(runner)

    def before_save_checkpoint(self, runner, checkpoint):
        # Of the best weights, and by mmengine's hook, the first process saves alone.
        if 'optimizer' in checkpoint and any(hasattr(h, 'join_hooks') for h in runner.hooks):
            tell_all(runner)
        data = runner.train_dataloader.dataset
        if isinstance(data, SeededOrNext):
            checkpoint['meta']['damaged_images'] = data.damaged

    def after_load_checkpoint(self, runner, checkpoint):
        known = checkpoint.get('meta', {}).get('damaged_images')
        if runner._resume and isinstance(known, list) \
                and isinstance(runner.train_dataloader.dataset, SeededOrNext):
            runner.train_dataloader.dataset.mark(known)

    def after_train(self, runner):
        tell_all(runner)
        data = runner.train_dataloader.dataset
        if isinstance(data, SeededOrNext) and data.damaged and is_main_process():
            runner.logger.warning(f'{len(data.damaged)} damaged images were replaced by the next '
                                  'ones; stderr has their names')


def is_within(labels, num_classes) -> bool:
    return bool(((labels >= 0) & (labels < num_classes)).all())


def heads_of(runner):
    """{name: head} of a model's heads that tell classes apart."""
    model = unwrapped(runner.model)
    return {name: head for name in ('head', 'decode_head', 'auxiliary_head')
            if hasattr(head := getattr(model, name, None), 'num_classes')}


def classes_of(data):
    """The names of the classes of a data set, or None."""
    return (getattr(data, 'metainfo', None) or {}).get('classes')


def require_same_number(runner, data, name):
    """ValueError where a head has another number of classes than the data set, if it tells it."""
    classes = classes_of(data)
    for head_name, head in heads_of(runner).items() if classes else ():
        if head.num_classes != len(classes):
            raise ValueError(
                f'{head_name}.num_classes is {head.num_classes}, the {name} set has {len(classes)} '
                'classes; expected the same. Set num_classes of the model, or classes in the data '
                "set's metainfo; where folders are classes, make an empty one for each that is "
                'missing')


def require_same_names(trained, evaluated, name):
    """ValueError where a label is not of the same class in training and evaluation."""
    for label, (mine, other) in enumerate(zip_longest(trained or (), evaluated or ())):
        if trained and evaluated and mine != other:
            raise ValueError(
                f'label {label} is {other!r} in the {name} set and {mine!r} in the training set; '
                'expected the same classes in the same order. Name the folders of both alike, or '
                "give both data sets the same classes in metainfo")


def tell_all(runner):
    """Every process learns which images any has met damaged; ValueError where they are too many."""
    data = runner.train_dataloader.dataset
    if isinstance(data, SeededOrNext):
        flags = data.is_damaged.to(torch.uint8)     # gloo and NCCL take no bool
        all_reduce(flags, 'max')
        data.mark(flags.nonzero().flatten().tolist())
        data.require_few()
