"""Linear probes in plain PyTorch that encode every image in every epoch, for probes.py.

B images, X prefix tokens, L patches, D channels.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from semmae.parts.learner import own_device


def shuffled(loop, loader):
    """Batches of random order of the images of ``loader``, as a training reads them."""
    return DataLoader(loader.dataset, loop.dataloader.batch_size, shuffle=True,
                      num_workers=loader.num_workers, collate_fn=loader.collate_fn)


@torch.no_grad()
def encode(loop, batch):
    """All tokens (B, X + L, D) of a batch, in evaluation mode."""
    model = loop.runner.model.eval()
    tokens, = model.backbone(model.data_preprocessor(batch, training=False)['inputs'])
    return tokens


class PlainProbe:
    """A linear probe in plain PyTorch: batch norm, linear layer, SGD with a cosine schedule."""

    def __init__(self, setting, channels, classes, steps):
        self.kinds = setting['tokens'].split('+')
        width = channels * len(self.kinds)
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False),
                                  nn.Linear(width, classes)).to(own_device())
        self.optimizer = torch.optim.SGD(self.head.parameters(), setting['lr'], momentum=.9,
                                         weight_decay=setting['weight_decay'])
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, features, labels):
        """features: {kind: (B, D)}."""
        logits = self.head(torch.cat([features[kind] for kind in self.kinds], 1))
        self.optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        self.optimizer.step()
        self.schedule.step()


def through_network(loop, loader, settings, epochs, batch_size):
    """Train the probes ``settings`` at once; every epoch decodes and encodes all images.

    Encodes in the loader's batches, and steps in batches of ``batch_size`` as `LinearProbe`.
    """
    model, batches = loop.runner.model, shuffled(loop, loader)
    prefix, width = model.backbone.num_prefix, model.backbone.embed_dims
    steps = epochs * -(-len(loader.dataset) // batch_size)
    probes = [PlainProbe(setting, width, model.task.num_classes, steps) for setting in settings]
    for _ in range(epochs):
        found, labels = [], []
        for number, batch in enumerate(batches, 1):
            tokens = encode(loop, batch)
            found.append((tokens[:, 0], tokens[:, prefix:].mean(1)))
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
            if len(labels) >= batch_size or number == len(batches):
                classes, means = (torch.cat(part) for part in zip(*found))
                for probe in probes:
                    probe.step({'class': classes, 'mean': means},
                               torch.tensor(labels, device=means.device))
                found, labels = [], []
