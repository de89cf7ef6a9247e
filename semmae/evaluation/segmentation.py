"""mIoU that does not drop pixels."""
import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from ..registry import METRICS


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's IoUMetric with the same values, and an error for labels that are not a class.

    mmseg drops pixels with a label or prediction that is not a class. Here they raise a ValueError
    with the file. Pixels of ``ignore_index`` are counted (``ignored_pixels``), and so are classes
    without a labelled pixel (``absent_classes``); their names are logged.
    """

    def process(self, data_batch, data_samples):
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            if self.format_only:
                super().process(data_batch, [sample])
                continue
            label = sample['gt_sem_seg']['data']
            found = sample['pred_sem_seg']['data'].to(label.device)
            if label.shape[-2:] != found.shape[-2:]:
                raise ValueError(
                    f'{name_of(sample)}: got labels of {tuple(label.shape[-2:])} and a '
                    f'prediction of {tuple(found.shape[-2:])} pixels, expected the same')
            ignored = label == self.ignore_index
            for what, values in (('label', label), ('prediction', found)):
                require_classes(values[~ignored], num_classes, what, name_of(sample))
            super().process(data_batch, [sample])
            self.results[-1] = (*self.results[-1], int(ignored.sum()))

    def compute_metrics(self, results):
        if self.format_only:
            return super().compute_metrics(results)
        metrics = super().compute_metrics([result[:4] for result in results])
        absent = np.flatnonzero(sum(result[3] for result in results).cpu().numpy() == 0)
        names = [self.dataset_meta['classes'][i] for i in absent]
        if names:
            print_log(f"{len(names)} classes without a labelled pixel: {', '.join(names)}",
                      'current')
        return dict(metrics, ignored_pixels=sum(result[4] for result in results),
                    absent_classes=len(names))


def name_of(sample):
    """The file of a sample, for messages."""
    return sample.get('seg_map_path') or sample.get('img_path') or 'a sample without a path'


def require_classes(values, num_classes, what, path, ignore_index=None):
    """Raise ValueError with the file if a value is neither a class nor ``ignore_index``."""
    wrong = (values < 0) | (values >= num_classes)
    if ignore_index is not None:
        wrong &= values != ignore_index
    if wrong.any():
        value = torch.as_tensor(values)[wrong].reshape(-1)[0].item()
        allowed = '' if ignore_index is None else f', or {ignore_index} (ignored)'
        raise ValueError(f'{path}: got {what} {value}, expected 0 to {num_classes - 1}{allowed}. '
                         'Fix the labels, or set the right classes and num_classes')
