"""k-NN accuracy for each number of neighbours, as a registered metric."""
from mmengine.evaluator import BaseMetric

from ..registry import METRICS


@METRICS.register_module()
class KNNAccuracy(BaseMetric):
    """``knn/top1_k10``, ...: top-1 accuracy in percent, for each k of ``knn_labels``.

    `semmae.KNNHead` gives the labels. mmpretrain's Accuracy measures its main k.
    """

    default_prefix = 'knn'

    def process(self, data_batch, data_samples):
        self.results += [{k: label == int(sample['gt_label'])
                          for k, label in sample['knn_labels'].items()} for sample in data_samples]

    def compute_metrics(self, results):
        return {f'top1_k{k}': 100 * sum(result[k] for result in results) / len(results)
                for k in results[0]}
