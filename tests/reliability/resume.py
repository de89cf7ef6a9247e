"""Runs that are killed and resumed, beside the same runs on stock mmengine.

    python -m tests.reliability.table --rows resume repeat order

Each task is one of the mini configs at its smallest: 20 drawn images, batches of 4 (5 iterations an
epoch), 15 iterations, a network of one layer (UPerNet: four), a checkpoint after each iteration. A
run survives if the sha256 of weights, optimiser, schedules and logged losses after the last
iteration is that of the run that was never stopped.
"""
import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
from functools import cached_property, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from semmae.checkpoints.read import read_checkpoint
from semmae.config.length import follow_length, length_of
from semmae.datasets.seeded import Seeded, SeededSampler
from semmae.datasets.toy import write_toy
from semmae.training.run import train

from .case import Case

REPO = Path(__file__).resolve().parents[2]
MINI = REPO / 'mm_configs' / 'mini'
NUM_IMAGES, BATCH, EPOCHS = 20, 4, 3
LENGTH = NUM_IMAGES // BATCH
ITERS = EPOCHS * LENGTH
ARCH = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=32)

TASKS = dict(
    pretrain='mae_p16_mini', parts='semmae_parts_mini', finetune='semmae_finetune_mini',
    linprobe='linprobe_p16_mini', upernet='semmae_upernet_ade20k_mini')


def toy(root):
    """The folder of the drawn images, made if it is not there."""
    return write_toy(Path(root) / 'toy', num_imagenet=(NUM_IMAGES, 8), num_cub=(16, 16),
                     num_ade=(NUM_IMAGES, 2), progress=False)


def config(task, root, workers=0, persistent=False, accumulate=1, world=1, stock=False, ema=False,
           compile=False, edit=None):
    """Path of the config of a run that saves after every iteration.

    world: of processes that share a batch. compile: with torch's compiler. stock: mmengine's loop,
    sampler and hooks, nothing of ours but model and data. edit: changes the config in place.
    """
    cfg = Config.fromfile(MINI / f'{TASKS[task]}.py')
    data, images = cfg.train_dataloader.dataset, toy(root)
    is_dense = task == 'upernet'
    if task == 'parts':
        cfg.model.encoder.backbone.arch = ARCH
        cfg.model.encoder.checkpoint = str(encoder(root, cfg.model.encoder.backbone))
        cfg.model.decoder.channels = (8, 8, 8)
    else:
        cfg.model.backbone.arch = ARCH
        cfg.model.backbone.pop('init_cfg', None)
    if task == 'pretrain':
        cfg.model.decoder.update(embed_dim=24, decoder_embed_dim=16)
    elif is_dense:
        cfg.model.backbone.arch = dict(ARCH, num_layers=4)  # one for each scale of the neck
        cfg.model.neck.embed_dim = 24
        cfg.model.decode_head.update(in_channels=[24] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=24, channels=8)
    elif task != 'parts':
        cfg.model.head.in_channels = 24
        if cfg.model.get('neck'):
            cfg.model.neck.input_features = 24
    data.min_length = 0
    data.dataset.data_root = str(images / ('ADEChallengeData2016' if is_dense
                                           else 'imagenet/train'))
    cfg.train_dataloader.update(batch_size=BATCH // world, num_workers=workers,
                                persistent_workers=persistent and workers > 0)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg',
                'test_evaluator', 'result'):
        cfg.pop(key, None)
    length = length_of(cfg)[1]
    cfg.train_cfg = (dict(type='IterBasedTrainLoop', max_iters=ITERS) if is_dense else
                     dict(type='semmae.ResumableEpochLoop', max_epochs=EPOCHS))
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 5
    cfg.visualizer = dict(type='mmengine.Visualizer', vis_backends=[])
    # The pictures take longer than the training.
    cfg.custom_hooks = [h for h in cfg.custom_hooks if 'Pictures' not in h.type]
    if ema:
        cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.optim_wrapper.accumulative_counts = accumulate
    cfg.compile = compile
    if stock:
        unmake(cfg, data.dataset, is_dense)
    if edit:
        edit(cfg)
    follow_length(cfg, length, {})
    cfg.log_level = 'ERROR'
    text = '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())
    path = Path(root) / f'{task}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.py'
    path.write_text(text)
    return path


def unmake(cfg, data, is_dense):
    """Put mmengine's own parts where ours stand."""
    cfg.train_dataloader.dataset = data
    cfg.train_dataloader.sampler = dict(
        type='InfiniteSampler' if is_dense else 'DefaultSampler', shuffle=True)
    if not is_dense:
        cfg.train_cfg.type = 'EpochBasedTrainLoop'
    cfg.default_hooks.checkpoint.type = 'mmengine.CheckpointHook'
    cfg.custom_hooks = [h for h in cfg.custom_hooks if h['type'] == 'semmae.ProgressHook'
                        or not h['type'].startswith('semmae.')]


def encoder(root, backbone):
    """A checkpoint of a random frozen ViT, for part learning."""
    from semmae.registry import MODELS
    path = Path(root) / 'encoder.pth'
    if not path.is_file():
        torch.manual_seed(0)
        model = MODELS.build(dict(backbone, out_type='raw'))
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in model.state_dict().items()},
                        meta={}), path)
    return path


class Killed(Exception):
    """Raised in a run that is to end as if it had been killed."""


@contextlib.contextmanager
def ending_after(iteration, end):
    """Calls ``end`` in whatever loop has done so many iterations, checkpoint included."""
    def ending(run_iter):
        def inner(self, *args):
            run_iter(self, *args)
            if self.iter == iteration:
                end()
        return inner
    with contextlib.ExitStack() as stack:
        for loop in (EpochBasedTrainLoop, IterBasedTrainLoop):
            stack.enter_context(patch.object(loop, 'run_iter', ending(loop.run_iter)))
        yield


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    raise Killed


def run(path, work, resume=False, stop_after=None, end=kill, **kwargs):
    """Train in this process, without a word; ``end`` it after so many iterations."""
    with contextlib.ExitStack() as stack:
        for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(redirect(io.StringIO()))
        # Stands in every checkpoint, and takes longer to lay out than all iterations together.
        stack.enter_context(patch.object(Config, 'pretty_text', ''))
        if stop_after:
            stack.enter_context(ending_after(stop_after, end))
        train(str(path), work_dir=str(work), resume=resume, **kwargs)


def forked(*actions, log):
    """Run each action in a child of its own, as processes of one training if there are several.

    Returns their exit codes, -9 for one that was killed. A child imports nothing again.
    """
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    children = []
    for rank, action in enumerate(actions):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            # A child mends its pool of threads when that is first asked for; torch's compiler asks
            # from several threads at once, which torch does not survive.
            torch.set_num_threads(torch.get_num_threads())
            if len(actions) > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port),
                                  WORLD_SIZE=str(len(actions)), MASTER_ADDR='127.0.0.1')
            action()
            code = 0
        except BaseException:
            Path(f'{log}.{rank}').write_text(traceback.format_exc())
        finally:
            os._exit(code)
    codes = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):  # the others would wait for it
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


def fingerprint(path):
    """sha256 of all that training changes: weights, optimiser, schedules, losses, part health."""
    content, found = read_checkpoint(path), hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, np.ndarray):
            found.update(value.tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for inner in value:
                add(inner)
        else:
            found.update(repr(value).encode())
    add([content[k] for k in ('state_dict', 'optimizer', 'param_schedulers')])
    add(content.get('ema_state_dict'))
    add(content['message_hub']['log_scalars']['train/loss'].data)
    add([content['meta'].get(k) for k in ('epoch', 'iter', 'part_health')])
    return found.hexdigest()


class Run:
    """One training that is never stopped, and its variants that are.

    workers, persistent, accumulate, world, stock, ema, compile, edit: see `config`.
    """

    def __init__(self, root, task, world=1, **how):
        self.root, self.task, self.world, self.how = Path(root), task, world, how
        # After torch.compile a process cannot start others that train.
        self.is_forked = world > 1 or how.get('compile', False)

    def config(self, **how):
        return config(self.task, self.root, world=self.world, **{**self.how, **how})

    def folder(self):
        return Path(tempfile.mkdtemp(prefix=f'{self.task}_', dir=self.root))

    def start(self, path, work, **kwargs):
        if not self.is_forked:
            return run(path, work, **kwargs)
        if self.world > 1:
            kwargs['launcher'] = 'pytorch'
        codes = forked(*[partial(run, path, work, **kwargs)] * self.world, log=work / 'error')
        if any(codes):
            raise RuntimeError('\n'.join(p.read_text() for p in work.glob('error.*')) or codes)

    @cached_property
    def straight(self):
        """(folder, fingerprint) of the run that is not stopped."""
        work = self.folder()
        self.start(self.config(), work)
        return work, fingerprint(work / f'iter_{ITERS}.pth')

    def repeats(self):
        """Whether a second run that is not stopped either ends bit-identical."""
        work = self.folder()
        self.start(self.config(), work)
        return fingerprint(work / f'iter_{ITERS}.pth') == self.straight[1]

    def resumed(self, iteration, **how):
        """The folder of a run that finds the checkpoint of this iteration, and nothing else."""
        work = self.folder()
        for path in self.straight[0].glob(f'iter_{iteration}.pth*'):
            shutil.copy(path, work)
        self.start(self.config(**how), work, resume=True)
        return work

    def killed(self, iteration, before=None, after=None):
        """The folder of a run that SIGKILL ended after this iteration, and that was resumed.

        before, after: what differs in the two, as ``dict(workers=2)``.
        """
        work = self.folder()
        path = self.config(**(before or {}))
        kwargs = dict(stop_after=iteration, **(dict(launcher='pytorch') if self.world > 1 else {}))
        codes = forked(*[partial(run, path, work, **kwargs)] * self.world, log=work / 'error')
        if set(codes) != {-signal.SIGKILL}:
            raise RuntimeError(f'the run was to be killed, and ended with {codes}: '
                               + '\n'.join(p.read_text() for p in work.glob('error.*')))
        self.start(self.config(**(after or {})), work, resume=True)
        return work

    def survives(self, iteration, is_killed=False, **how):
        """Whether the stopped run ends in the bits of the other, with nothing done twice."""
        work = (self.killed if is_killed else self.resumed)(iteration, **how)
        last = max(int(p.stem.split('_')[1]) for p in work.glob('iter_*.pth'))
        return last == ITERS and fingerprint(work / f'iter_{ITERS}.pth') == self.straight[1]

    def samples(self, stop_after=None, resume_from=None):
        """[(epoch, index), ...] as a run without workers reads them, up to or from an iteration."""
        seen, read = [], Seeded.__getitem__

        def reading(data, key):
            seen.append(key)
            return read(data, key)
        with patch.object(Seeded, '__getitem__', reading), contextlib.suppress(Killed):
            if resume_from:
                self.resumed(resume_from)
            else:
                run(self.config(), self.folder(), stop_after=stop_after, end=stop)
        return seen

    def reads_each_once(self, iteration):
        """Whether stopping and resuming reads the samples of the run that is not stopped."""
        first = self.samples(stop_after=iteration)
        epochs = [sorted(i for e, i in first + self.samples(resume_from=iteration) if e == epoch)
                  for epoch in range(EPOCHS)]
        return epochs == [list(range(NUM_IMAGES))] * EPOCHS


def tried_on(stock, iteration, **how):
    """`Run.survives`, in words."""
    return lambda: 'ok' if stock.survives(iteration, **how) else 'not bit-identical'


def cases(root=None, quick=False):
    """The `Case` of every way of being stopped. quick: about a minute; else every kill point.

    root: a folder for data and runs; None: a temporary one, which stays.
    """
    root = Path(root or tempfile.mkdtemp(prefix='resume_'))
    points = range(1, ITERS)
    # Stock, which not bit-identical wherever it stops, is stopped less often.
    few = () if quick else (3, LENGTH, 7, 14)
    for n, task in enumerate(TASKS):
        ours, stock = Run(root, task), Run(root, task, stock=True)
        # Quick: one inside the first epoch, one at the end of one, one inside the last, of each.
        for k in ((1 + n % 4, LENGTH, 11 + n % 4) if quick else points):
            yield Case('resume', f'{task}, stopped after {k} of {ITERS}',
                       partial(ours.survives, k),
                       tried_on(stock, k) if not quick or k == LENGTH else None)
        if not quick:
            yield Case('repeat', f'{task}, never stopped, twice', ours.repeats, stock.repeats)
        for k in (7,) if quick else (3, LENGTH, 7, 14):
            yield Case('order', f'{task}, every image once in each epoch, stopped after {k}',
                       partial(ours.reads_each_once, k))
        for k, before, after in [
                (6, dict(workers=2, persistent=True), dict()),
                (8, dict(), dict(workers=2, persistent=False)),
                (12, dict(workers=2, persistent=False), dict(workers=2, persistent=True)),
                (9, dict(workers=2, persistent=True), dict(workers=2, persistent=True))][
                    n % 4 if quick else 0:n % 4 + 1 if quick else None]:
            names = [' '.join(f'{k}={v}' for k, v in how.items()) or 'no workers'
                     for how in (before, after)]
            kwargs = dict(is_killed=True, before=before, after=after)
            yield Case('resume', f'{task}, kill -9 after {k}; {names[0]}, then {names[1]}',
                       partial(ours.survives, k, **kwargs),
                       None if quick else tried_on(stock, k, **kwargs))
    for task in ('pretrain', 'finetune', 'upernet') if not quick else ('finetune', 'upernet'):
        for accumulate in (2,) if quick else (2, 3, 4):
            run, stock = (Run(root, task, accumulate=accumulate, stock=s) for s in (False, True))
            for k in (7,) if quick else points:
                yield Case('resume', f'{task}, {accumulate} accumulated, stopped after {k}',
                           partial(run.survives, k), tried_on(stock, k) if k in few else None)
    run, stock = (Run(root, 'finetune', ema=True, stock=s) for s in (False, True))
    for k in (8,) if quick else points:
        yield Case('resume', f'finetune, moving average of weights, stopped after {k}',
                   partial(run.survives, k), tried_on(stock, k) if k in few else None)
    for task, accumulate in ([('finetune', 2), ('linprobe', 1)] if quick else [
            (task, a) for task in TASKS if task != 'upernet' for a in (1, 2)]):  # SyncBN: a GPU
        run, stock = (Run(root, task, world=2, accumulate=accumulate, stock=s)
                      for s in (False, True))
        for k in (7,) if quick else points:
            name = f'{task}, 2 processes, {accumulate} accumulated, stopped after {k}'
            yield Case('resume', name, partial(run.survives, k),
                       tried_on(stock, k) if k in few else None)


def without(hook):
    def edit(cfg):
        cfg.custom_hooks = [h for h in cfg.custom_hooks if h['type'] != hook]
    return edit


def without_a_start(run):
    """Whether it survives if the sampler begins each epoch with its first image."""
    with patch.object(SeededSampler, 'skip', lambda *_: None):
        return run.survives(7)


def controls(root=None, quick=False):
    """The same runs without what it is that makes them survive: each has to end in other bits."""
    root = Path(root or tempfile.mkdtemp(prefix='resume_'))
    for hook, how in (('StepSeedHook', dict(task='finetune', workers=1)),
                      ('RankStateHook', dict(task='finetune', accumulate=2)),
                      ('RankStateHook', dict(task='linprobe', world=2))):
        run = Run(root, edit=without(f'semmae.{hook}'), **how)
        yield Case('repeat', f'{how["task"]} without {hook}', partial(run.survives, 7))
    for task in ('finetune', 'upernet'):
        yield Case('repeat', f'{task} without the start of the sampler',
                   partial(without_a_start, Run(root, task)))
