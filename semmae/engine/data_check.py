"""Labels and the number of classes are checked before the first step that would use them."""
from mmengine.hooks import Hook

from ..datasets.damage import SeededOrNext
from ..evaluation.segmentation import name_of, require_classes
from ..registry import HOOKS
from .hooks import unwrapped


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuses labels that are no class of the head, and counts damaged images.

    Before training: the data set and every head have the same number of classes. Before each step:
    labels are classes, or the head's ``ignore_index``. ``meta['damaged_images']`` of checkpoints:
    images of this process that were replaced so far; also logged at the end.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        self.heads = {name: head for name in ('head', 'decode_head', 'auxiliary_head')
                      if hasattr(head := getattr(unwrapped(runner.model), name, None),
                                 'num_classes')}
        data = runner.train_dataloader.dataset
        classes = (getattr(data, 'metainfo', None) or {}).get('classes')
        for name, head in self.heads.items():
            if classes and head.num_classes != len(classes):
                raise ValueError(
                    f'{name}.num_classes is {head.num_classes}, the data set has {len(classes)} '
                    'classes; expected the same. Set num_classes of the model, or classes in the '
                    "data set's metainfo")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        for head in self.heads.values() if samples else ():
            for sample in samples:
                path = name_of(sample.metainfo)
                if 'gt_sem_seg' in sample:
                    require_classes(sample.gt_sem_seg.data, head.num_classes, 'label', path,
                                    getattr(head, 'ignore_index', 255))
                elif 'gt_label' in sample:
                    require_classes(sample.gt_label, head.num_classes, 'label',
                                    sample.metainfo.get('img_path', path))

    def before_save_checkpoint(self, runner, checkpoint):
        data = getattr(runner.train_dataloader, 'dataset', None)
        if isinstance(data, SeededOrNext):
            checkpoint['meta']['damaged_images'] = data.num_damaged

    def after_train(self, runner):
        data = runner.train_dataloader.dataset
        if isinstance(data, SeededOrNext) and data.num_damaged:
            runner.logger.warning(f'{data.num_damaged} damaged images were replaced by the next '
                                  'ones; see above for their names')
