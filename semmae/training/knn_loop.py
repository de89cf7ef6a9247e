"""The loop of k-NN evaluation: stores the features of the training images, trains nothing."""
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from mmengine.runner import BaseLoop

from ..datasets.seeded import Seeded
from ..models.layers import unwrapped
from ..registry import LOOPS


@LOOPS.register_module()
class KNNLoop(BaseLoop):
    """Stores the features of all training images in the head (`semmae.KNNHead`), then validates.

    It takes the place of a training loop, so that commands, suites and results are the same as for
    other tasks. Each process computes its share of the features and holds all of them, (T, D)
    float32 on its device: 3.9 GB for ImageNet and ViT-B. Images that an even split repeats count
    once. The result does not depend on the number of processes or the batch size, up to rounding.
    """

    epoch = max_epochs = iter = max_iters = 0  # for hooks: the training is complete

    def __init__(self, runner, dataloader):
        super().__init__(runner, dataloader)
        if not hasattr(getattr(unwrapped(runner.model), 'head', None), 'remember'):
            raise ValueError("KNNLoop needs a model with head=dict(type='semmae.KNNHead'), "
                             f'got {runner.cfg.model.type} with head {runner.cfg.model.head}')

    def run(self):
        self.runner.call_hook('before_train')
        unwrapped(self.runner.model).head.remember(*self.features())
        self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    @torch.no_grad()
    def features(self):
        """(features (T, D) of length 1, labels (T,)), in the order of the dataset."""
        model, data = unwrapped(self.runner.model), self.dataloader.dataset
        model.eval()
        total = len(data.dataset if isinstance(data, Seeded) else data)
        bank = labels = torch.empty(0)
        for step, batch in enumerate(self.dataloader):
            batch = model.data_preprocessor(batch, training=False)
            found = model.extract_feat(batch['inputs'])[-1].float()
            index, label = (torch.tensor(values, device=found.device) for values in zip(
                *((s.sample_idx, int(s.gt_label)) for s in batch['data_samples'])))
            found, index, label = (torch.cat(all_gather(x.contiguous()))
                                   for x in (F.normalize(found, dim=1), index, label))
            if step == 0:
                bank = found.new_zeros(total, found.shape[1])
                labels = label.new_full((total,), -1)
            bank[index], labels[index] = found, label
            if step % 100 == 0:
                self.runner.logger.info(f'k-NN: features of {step + 1} of {len(self.dataloader)} '
                                        'batches of training images')
        missing = int((labels < 0).sum())
        if missing:
            raise ValueError(f'k-NN: {missing} of {total} training images were not read, expected '
                             'all; set train_dataloader.drop_last=False')
        return bank, labels
