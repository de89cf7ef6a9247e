"""The loop of probes: encode once into a store; then choose, fit and test each probe on it."""
import contextlib
import re
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import LoggerHook
from mmengine.runner import BaseLoop
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader, Dataset

from ..config.data_check import classes_of, require_same_names
from ..config.identity import fields_of, images_fingerprint
from ..config.lookup import plain
from ..datasets.seeded import Seeded
from ..datasets.sharded import Claims
from ..datasets.stored import write_json
from ..evaluation.segmentation import require_classes
from ..models.layers import unwrapped
from ..progress_bar import Bar, track
from ..registry import LOOPS
from .probe import HELD_OUT, choose, low_shot
from .store import FeatureStore, FeatureStoreWriter, fingerprint

SHARD = 256  # images
FINISHED = 'probes.json'  # written in the work directory when every probe has its result
DEPTH_STEPS = 50_000  # of a stored depth map, up to the farthest depth of the task


@LOOPS.register_module()
class ProbeLoop(BaseLoop):
    """Stores the features of the training and validation images, then fits and tests the probes.

    It takes the place of a training loop. Images are read and encoded only if the folder ``store``
    has no features yet that were made of the same images, weights, pipeline and layers; so all
    probes of a backbone on a data set share one pass. Any number of processes encode together, and
    a stopped pass goes on where it was. The pipelines must be without random steps.

    A probe's setting is chosen on 10 % of the training images (`probe.choose`), then fitted on all
    of them; it sees the test images once. Each probe has a line of its own in results.jsonl.

    store: folder for the stores of all data sets and backbones.
    only: names of the probes to run; None: all of ``model.probes``.
    precision: 'float32', 'bfloat16' or 'float16' of the encoder.
    """

    epoch = max_epochs = iter = max_iters = 0  # for hooks: the training is complete

    def __init__(self, runner, dataloader, store='work_dirs/features', only=None,
                 precision='float32'):
        super().__init__(runner, dataloader)
        probes = getattr(unwrapped(runner.model), 'probes', None)
        if not probes:
            raise ValueError("ProbeLoop needs model=dict(type='semmae.FrozenProbe', probes=...), "
                             f'got {runner.cfg.model.type}'
                             f'{" in which every probe is None" if probes == {} else ""}')
        self.store, self.precision = Path(store), precision
        self.names = list(probes) if only is None else [only] if isinstance(only, str) else only
        if unknown := set(self.names) - set(probes):
            raise ValueError(f'train_cfg.only: got {", ".join(sorted(unknown))}, the probes of '
                             f'this config are {", ".join(probes)}')

    def run(self):
        runner, started = self.runner, time.time()
        runner.call_hook('before_train')
        self.require_classes()
        train = self.features('train_dataloader', self.dataloader)
        test = self.features('val_dataloader', runner.val_dataloader)
        runner.logger.info(f'features read after {time.time() - started:.1f} s')
        for name in self.names:
            with only_probe(runner.cfg, name):
                self.run_probe(name, train, test)
        runner.call_hook('after_train')
        if is_main_process():
            write_json(Path(runner.work_dir) / FINISHED, dict(probes=self.names))
        return runner.model

    def require_classes(self):
        """ValueError for a label that is another class in the test, or none of the task."""
        task = unwrapped(self.runner.model).task
        sets = [inner(loader.dataset) for loader in (self.dataloader, self.runner.val_dataloader)]
        trained, tested = map(classes_of, sets)
        require_same_names(trained, tested, 'validation')
        if trained and hasattr(sets[0], 'folder_to_idx') and len(trained) != task.num_classes:
            told = (f'model.task.num_classes is {task.num_classes}, the training set has '
                    f'{len(trained)} classes; expected the same')
            if len(trained) > task.num_classes:
                raise ValueError(told)
            self.runner.logger.warning(told)

    def run_probe(self, name, train, test):
        """Choose, fit and test one probe; the config says which."""
        runner, model, started = self.runner, unwrapped(self.runner.model), time.time()
        probe, task = model.probes[name], model.task
        device = str(next(model.backbone.parameters()).device)
        index = np.arange(len(train))
        if fraction := model.fractions[name]:
            index = low_shot(train.labels, fraction, runner.seed)
        try:
            setting, scores = choose(probe, train, task, runner.seed, device, index)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        if scores:
            runner.cfg.result.selected_on = f'{HELD_OUT:.0%} of the training images'
        model.chosen = plain(dict(setting, tried=max(len(scores), 1), **(
            dict(held_out=round(float(np.nanmax(scores)), 4)) if scores else {})))
        fitted = probe.fit(train, index, [setting], task, runner.seed, device)
        chosen = time.time()
        self.evaluate(probe, fitted, test)
        runner.logger.info(
            f'{name}: {model.chosen}; choice and fit {chosen - started:.1f} s, test '
            f'{time.time() - chosen:.1f} s')

    # ------------------------------------------------------------------ the store
    def features(self, name, loader):
        """The `FeatureStore` of a data loader of the config, made if it is not there."""
        model = unwrapped(self.runner.model)
        data = inner(loader.dataset)
        infos = [data.get_data_info(i) for i in range(len(data))]
        names = ['/'.join(Path(info['img_path']).parts[-2:]) for info in infos]
        pipeline = fields_of({'pipeline': self.runner.cfg[name].dataset.get(
            'pipeline') or self.runner.cfg[name].dataset.dataset.pipeline})
        made_of = dict(
            images=images_fingerprint(data, with_sizes=True), names=len(names), view=pipeline,
            backbone=plain(fields_of({'backbone': self.runner.cfg.model.backbone})),
            weights=model.weights_sha256(), layers=model.layers, patch_layers=model.patch_layers,
            normalization=plain(fields_of({'is': self.runner.cfg.model.data_preprocessor})),
            task=model.task.kind, precision=self.precision, **labels_of(data, model.task))
        name = re.sub(r'\W+', '-', self.runner.cfg.result.dataset)
        root = self.store / f'{name}-{fingerprint(made_of)}'
        if not (root / 'manifest.json').is_file():
            self.fill(root, made_of, names, data, loader)
        store = FeatureStore(root)
        if list(store.names) != names:
            raise ValueError(f'{root} was made of other images. {store.command()}')
        store.verify()
        self.runner.logger.info(f'features of {len(names)} images: {root}')
        return store

    def fill(self, root, made_of, names, data, loader):
        """Encode all images that no process has encoded yet, and write the store."""
        task = unwrapped(self.runner.model).task
        step = task.depth_range[1] / DEPTH_STEPS if task.kind == 'depth' else 0.
        with torch.random.fork_rng():
            sample = loader.collate_fn([data[0]])
        grid = self.encode(sample)[1]
        writer = FeatureStoreWriter(root, names, dict(
            made_of, grid=list(grid), depth_step=step, batch_size=loader.batch_size), SHARD)
        batches = DataLoader(
            Indexed(data), batch_sampler=Claims(writer, loader.batch_size),
            num_workers=loader.num_workers, collate_fn=Collate(loader.collate_fn))
        with contextlib.ExitStack() as stack:
            stack.callback(writer.release)
            done, what = writer.count_written(), f'features of {self.runner.cfg.result.dataset}'
            bar = stack.enter_context(Bar(what, len(names), done=done))
            while writer.todo():
                shard: list = []
                for indices, batch in batches:
                    tokens, found = self.encode(batch)
                    if found != grid:
                        raise ValueError(
                            f'{names[indices[0]]}: got a grid of {found} patches, the first image '
                            f'has {grid}; expected a pipeline that gives all images one size')
                    shard.append((tokens, self.labels(batch, task, step)))
                    start, stop = writer.shard_of(indices[0])
                    if indices[-1] == stop - 1:
                        writer.write(start, *joined(shard))
                        done, shard = writer.count_written(), []
                    bar.to(done + sum(len(labels) for _, labels in shard))
                if writer.todo():
                    time.sleep(.5)  # other processes have claimed the rest
        writer.finish()

    @torch.no_grad()
    def encode(self, batch):
        """`FrozenProbe.encode` of a collated batch."""
        model = unwrapped(self.runner.model)
        model.eval()
        inputs = model.data_preprocessor(batch, training=False)['inputs']
        self.runner.sample_side = inputs.shape[-1]
        with torch.autocast(inputs.device.type, getattr(torch, self.precision),
                            self.precision != 'float32'):
            return model.encode(inputs)

    @staticmethod
    def labels(batch, task, step):
        """(B,) int64 classes, or B label maps: uint8, uint16; depth in steps, 0 if unlabelled.

        Raises ValueError with the file for a label that is neither a class nor ignored.
        """
        samples = batch['data_samples']
        if task.kind == 'classification':
            return np.array([int(sample.gt_label) for sample in samples])
        if task.kind == 'depth':
            maps = [sample.gt_depth_map.data.squeeze(0).numpy() for sample in samples]
            return [np.where(m / step < 65536, np.round(m / step), 0).astype(np.uint16)
                    for m in maps]
        maps = [sample.gt_sem_seg.data.squeeze(0).numpy() for sample in samples]
        for label_map, sample in zip(maps, samples):
            require_classes(label_map, task.num_classes, 'label',
                            sample.get('seg_map_path') or sample.img_path, task.ignore_index)
        return [m.astype(np.uint8 if m.max() < 256 else np.uint16) for m in maps]

    # ------------------------------------------------------------------ the test set
    def evaluate(self, probe, fitted, test):
        """Predict this process's share of the test images, and let the evaluator see it once."""
        runner, loop, task = self.runner, self.runner.val_loop, unwrapped(self.runner.model).task
        runner.call_hook('before_val')
        runner.call_hook('before_val_epoch')
        mine = np.arange(get_rank(), len(test), get_world_size())
        dataset = runner.val_dataloader.dataset
        pairs = zip(mine, probe.predict(fitted, 0, test, mine, task), strict=True)
        for number, (i, found) in enumerate(track(pairs, 'test', len(mine))):
            samples = [as_sample(task, dataset.get_data_info(int(i)), test.labels[i], found)]
            loop.evaluator.process(data_samples=samples, data_batch=None)
            for hook in runner.hooks:
                if not isinstance(hook, LoggerHook):  # it would count images as batches
                    hook.after_val_iter(runner, number, None, samples)
        metrics = loop.evaluator.evaluate(len(test))
        runner.call_hook('after_val_epoch', metrics=metrics)
        runner.call_hook('after_val')


def inner(data):
    """The data set inside a `Seeded` one."""
    return data.dataset if isinstance(data, Seeded) else data


def labels_of(data, task):
    """What changes the labels of a data set, besides its files and pipeline; {} by default."""
    found = dict(reduce_zero_label=getattr(data, 'reduce_zero_label', None),
                 label_map=getattr(data, 'label_map', None),
                 depth_range=task.depth_range if task.kind == 'depth' else None)
    return {key: str(value) for key, value in found.items() if value}


@contextlib.contextmanager
def only_probe(cfg, name):
    """Inside, the config has the probe ``name`` alone, as ``model.probe``, and its result task.

    So a result's protocol has the settings of its own probe, and of no other.
    """
    model, result = cfg.model, cfg.result
    cfg.model = ConfigDict({k: v for k, v in model.items() if k != 'probes'},
                           probe=model.probes[name])
    cfg.result = ConfigDict(result, task=name)
    try:
        yield
    finally:
        cfg.model, cfg.result = model, result


def as_sample(task, info, label, found):
    """The data sample of mmpretrain or mmseg that an evaluator expects."""
    paths = {key: info[key] for key in ('img_path', 'seg_map_path', 'depth_map_path')
             if key in info}
    if task.kind == 'classification':
        sample = DataSample(metainfo=paths).set_gt_label(int(label))
        return sample.set_pred_score(found).set_pred_label(found.argmax().unsqueeze(0))
    truth = torch.from_numpy(np.asarray(label, dtype=np.float32 if task.kind == 'depth'
                                        else np.int64))[None]
    names = (('gt_depth_map', 'pred_depth_map') if task.kind == 'depth' else
             ('gt_sem_seg', 'pred_sem_seg'))
    sample = SegDataSample(metainfo=paths)
    for name, value in zip(names, (truth, found[None].cpu()), strict=True):
        setattr(sample, name, PixelData(data=value))
    return sample


def joined(shard):
    """(tokens, labels) of the batches of a shard as one."""
    tokens, labels = zip(*shard, strict=True)
    whole = {key: np.concatenate([batch[key] for batch in tokens]) for key in tokens[0]}
    if isinstance(labels[0], np.ndarray):
        return whole, np.concatenate(labels)
    return whole, [label_map for batch in labels for label_map in batch]


class Indexed(Dataset):
    """``data[index, name]`` -> (index, sample)."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, key):
        return key[0], self.data[key[0]]


class Collate:
    """A list of (index, sample) -> (indices, the batch of ``collate``)."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, pairs):
        indices, samples = zip(*pairs, strict=True)
        return list(indices), self.collate(list(samples))
