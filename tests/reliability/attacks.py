"""Files, archives, names and settings that are wrong or malicious, beside what stock makes of them.

    python -m tests.reliability.table --rows unwritable other-run malicious torn names archives

Everything is made in a temporary folder; a file that runs code can only create the canary.
"""
import contextlib
import csv
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import load as mmengine_load
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local, load_state_dict

from semmae.checkpoints.load import convert, load_backbone, load_whole
from semmae.config.dumped_config import read_config as read_dumped
from semmae.config.options import read_config
from semmae.files import unpack, writable_file, writable_folder
from semmae.registry import MODELS
from semmae.reporting.render import render
from semmae.reporting.tables import build_tables
from semmae.results.results import append_result, read_results
from semmae.training import run as training

from .case import Case
from .resume import Run, config, run, without

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
REFUSED = (ValueError, FileNotFoundError)
SAID = 'cannot resume: the run differs|does not fit this config'  # of a run that differs


class Runs:
    """A pickle that creates ``canary`` when it is loaded, by ``how``."""

    def __init__(self, canary, how='os.system'):
        self.canary, self.how = canary, how

    def __reduce__(self):
        code = f'open({str(self.canary)!r}, "w").close()'
        if self.how == 'os.system':
            return os.system, (f'touch {self.canary}',)
        if self.how == 'exec':
            return exec, (code,)
        return eval, (code,)


class Getattr:
    """A pickle that asks an allowed class for more than its statistics."""

    def __reduce__(self):
        return getattr, (np.ndarray, 'tofile')


class Huge:
    """A pickle of an array that would not fit into any memory."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (1 << 50,), 'f8')


def vit(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build({**dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=8,
                                 out_type='raw'), **kwargs})
    model.init_weights()
    return model


def poison(canary):
    """Text of a config that runs code."""
    return f'open({str(canary)!r}, "w").close()\nmodel = dict(type="x")\n'


def damaged_files(root, canary):
    """{name: path} of files that have to be refused."""
    root, made = Path(root), {}

    def path(name, suffix='.pth'):
        made[name] = root / f'{name.replace(" ", "_").replace("/", "_")}{suffix}'
        return made[name]

    weights = vit().state_dict()
    for how in ('os.system', 'exec', 'eval'):
        for is_new in (True, False):
            torch.save(dict(state_dict=weights, meta=Runs(canary, how)),
                       path(f'{how} in {"a zip" if is_new else "the old format"}'),
                       _use_new_zipfile_serialization=is_new)
    path('a bare pickle').write_bytes(pickle.dumps(Runs(canary)))
    evil = np.array([Runs(canary)], dtype=object)
    for name, value in [('getattr on an allowed class', Getattr()), ('an endless array', Huge()),
                        ('code in an object array', evil)]:
        torch.save(dict(state_dict=weights, meta=dict(x=value)), path(name))
    torch.save(dict(state_dict=[1, 2]), path('a state dict that is a list'))
    torch.save([weights], path('a list'))
    torch.save(dict(state_dict=weights, meta='text'), path('meta that is a text'))
    whole = root / 'whole.pth'
    torch.save(dict(state_dict=weights, meta={}), whole)
    content = whole.read_bytes()
    path('cut in half').write_bytes(content[:len(content) // 2])
    path('cut at the last byte').write_bytes(content[:-1])
    at = content.index(weights['pos_embed'].numpy().tobytes()[:64]) + 7
    path('a flipped byte').write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])
    path('0 bytes').write_bytes(b'')
    path('a page of HTML').write_bytes(b'<html>404</html>')
    path('a pointer of LFS').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    with zipfile.ZipFile(whole) as f, zipfile.ZipFile(
            path('a bomb'), 'w', zipfile.ZIP_DEFLATED) as bomb:
        for record in f.infolist():
            bomb.writestr(record.filename, f.read(record))
        bomb.writestr('archive/data/99', bytes(50 << 20))
    path('an absurd header', '.safetensors').write_bytes(struct.pack('<Q', 1 << 60) + b'{}')
    path('safetensors out of bounds', '.safetensors').write_bytes(safetensors_header(
        dict(x=dict(dtype='F32', shape=[1 << 40], data_offsets=[0, 1 << 42]))))
    path('another patch size').write_bytes(saved(vit(patch_size=4).state_dict()))
    path('another width').write_bytes(saved(vit(arch=dict(ARCH, embed_dims=32)).state_dict()))
    path('another depth').write_bytes(saved(vit(arch=dict(ARCH, num_layers=1)).state_dict()))
    nan = {k: v.clone() for k, v in weights.items()}
    nan['pos_embed'][0, 0, 0] = float('nan')
    path('a weight that is NaN').write_bytes(saved(nan))
    return made


def safetensors_header(header):
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text


def saved(state):
    f = io.BytesIO()
    torch.save(dict(state_dict=state, meta={}), f)
    return f.getvalue()


def unchanged(call, model, canary):
    """Whether ``call`` refuses with a sentence, runs nothing and leaves the model as it was."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        call()
    except REFUSED:
        same = all(v.equal(before[k]) for k, v in model.state_dict().items())
        return same and not canary.exists()
    return False


def refuses(call, canary=None, said=''):
    """Whether ``call`` ends in a ValueError or FileNotFoundError that matches, without a canary."""
    try:
        call()
    except REFUSED as error:
        return bool(re.search(said, str(error))) and not (canary and canary.exists())
    return False


def stock(call, canary=None):
    """What a call of stock code comes to: a text, with 'ok' in front where it ends in an error."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()
        said = 'takes it'
    except BaseException as error:  # SystemExit too
        said = f'ok, refused: {type(error).__name__}'
    if canary and canary.exists():
        canary.unlink()
        return 'runs the code'
    return said


def stock_load(path):
    """What mmengine does for init_cfg and load_from."""
    content = load_from_local(str(path), map_location='cpu')
    load_state_dict(vit(), content.get('state_dict', content), strict=False)


def checkpoints(root, canary):
    for name, path in damaged_files(root, canary).items():
        model = vit()

        def ours(path=path, model=model):
            return (unchanged(partial(load_backbone, model, path), model, canary)
                    and unchanged(partial(load_whole, model, path), model, canary)
                    and (path.stem.startswith('another')  # a whole network, if another one
                         or refuses(partial(convert, path, root / 'out.pth', 'timm'), canary)))
        yield Case('malicious', name, ours, partial(stock, partial(stock_load, path), canary))
    yield whole_file(root)


def whole_file(root):
    path = Path(root) / 'whole.pth'

    def loads():
        return load_backbone(vit(), path)['matched'] == len(vit().state_dict())
    return Case('malicious', 'a file that is whole, which loads', loads)


def poisoned_meta(root, canary):
    """A checkpoint that loads as plain values, and holds a config for mmengine to execute."""
    path = Path(root) / 'poisoned.pth'
    torch.save(dict(state_dict=vit().state_dict(), meta=dict(
        config=poison(canary), cfg=poison(canary), epoch=1, iter=5)), path)

    def resumed(content):  # as Runner.resume does
        if 'config' in content['meta']:
            Config.fromstring(content['meta']['config'], file_format='.py')

    def ours():
        resumed(CheckpointLoader.load_checkpoint(str(path)))
        return not canary.exists()
    yield Case('malicious', 'a config in meta, resumed', ours, partial(
        stock, lambda: resumed(load_from_local(str(path), map_location='cpu')), canary))
    for scheme in ('open-mmlab://resnet50', 'torchvision://resnet50', 'modelzoo://resnet50',
                   'mmcls://x', 's3://bucket/x.pth', 'petrel://x.pth', 'pavi://x'):
        yield Case('malicious', f'{scheme}, never checked', partial(
            refuses, partial(CheckpointLoader.load_checkpoint, scheme), canary))


def annotations(root, canary):
    for name, content in {'x.pkl': pickle.dumps(Runs(canary)),
                          'x.pickle': pickle.dumps(Runs(canary)),
                          'x.yaml': f'!!python/object/apply:os.system ["touch {canary}"]'.encode(),
                          }.items():
        path = Path(root) / name
        path.write_bytes(content)

        def ours(path=path):
            with contextlib.suppress(Exception):
                mmengine_load(str(path))
            return not canary.exists()
        handler = YamlHandler() if path.suffix == '.yaml' else PickleHandler()
        yield Case('malicious', f'annotations in {name}', ours, partial(
            stock, partial(handler.load_from_path, str(path)), canary))
    yield Case('malicious', 'a config in YAML',
               partial(refuses, partial(read_config, path), canary), partial(
                   stock, lambda: YamlHandler().load_from_path(str(path)), canary))
    dumped = Path(root) / 'config.py'
    dumped.write_text(poison(canary))

    def tables():
        read_dumped(dumped, [])
        return not canary.exists()
    yield Case('malicious', 'a dumped config, for tables', tables,
               partial(stock, partial(Config.fromfile, str(dumped)), canary))


def archives(root):
    root = Path(root)

    def tar(name, *members, mode='w'):
        with tarfile.open(root / name, mode) as f:
            for member, content in members:
                f.addfile(member, io.BytesIO(content))
        return root / name

    def member(name, kind=tarfile.REGTYPE, link='', content=b'x'):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content) * (kind == tarfile.REGTYPE)
        return info, content
    made = {
        '../ in a tar': tar('up.tar', member('../escaped')),
        'an absolute path in a tar': tar('absolute.tar', member(f'{root}/escaped')),
        'a symlink, and a file through it': tar(
            'link.tar', member('a', tarfile.SYMTYPE, str(root)), member('a/escaped')),
        'a hard link': tar('hard.tar', member('a', tarfile.LNKTYPE, '/etc/passwd')),
        'a device': tar('device.tar', member('null', tarfile.CHRTYPE)),
        'a pipe': tar('pipe.tar', member('pipe', tarfile.FIFOTYPE)),
        'a bomb of a tar': tar('bomb.tar.gz', member('zeros', content=bytes(30 << 20)),
                               mode='w:gz'),
        'a file twice': tar('twice.tar', member('a'), member('a'))}
    for name, inside in [('../ in a zip', '../escaped'), ('an absolute path in a zip', '/escaped'),
                         ('backslashes in a zip', '..\\escaped')]:
        made[name] = root / f'{len(made)}.zip'
        with zipfile.ZipFile(made[name], 'w') as f:
            f.writestr(inside, 'x')
    made['a bomb of a zip'] = root / 'bomb.zip'
    with zipfile.ZipFile(made['a bomb of a zip'], 'w', zipfile.ZIP_DEFLATED) as f:
        f.writestr('zeros', bytes(30 << 20))
    cut = tar('cut.tar.gz', member('a', content=os.urandom(10000)), mode='w:gz')
    cut.write_bytes(cut.read_bytes()[:5000])
    made['cut'] = cut

    def ours(path):
        out = root / 'unpacked'
        return (refuses(partial(unpack, path, out)) and not out.exists()
                and not (root / 'escaped').exists() and not [*root.glob('unpacked.partial*')])

    def by_stock(path):
        said = stock(partial(extracted, path, root))
        if (root / 'escaped').exists():
            (root / 'escaped').unlink()
            return 'writes outside'
        return said
    for name, path in made.items():
        yield Case('archives', name, partial(ours, path), partial(by_stock, path))
    good = tar('good.tar', member('a/b.txt'), member('c'))

    def unpacks():
        out = root / 'good'
        return unpack(good, out) == 2 and (out / 'a/b.txt').read_bytes() == b'x'
    yield Case('archives', 'an archive that is right', unpacks)
    yield Case('archives', 'another sha256', partial(
        refuses, partial(unpack, good, root / 'other', '0' * 64)))


def extracted(path, root):
    """Unpack as the libraries do by themselves, into a folder of ``root`` that is removed."""
    with tempfile.TemporaryDirectory(dir=root) as out:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as f:
                f.extractall(out)
        else:
            with tarfile.open(path) as f:
                f.extractall(out, filter='fully_trusted')  # the default before Python 3.14


def places(root):
    file = Path(root) / 'a_file'
    file.write_text('x')
    for name, call in {
            'a work directory below a file': partial(writable_folder, file / 'work'),
            'a work directory that is a file': partial(writable_folder, file),
            'a work directory in /proc': partial(writable_folder, '/proc/semmae'),
            '--out with another suffix': partial(writable_file, Path(root) / 'x.jpeg', ('.png',)),
            '--out that is a folder': partial(writable_file, root),
            '--out below a file': partial(writable_file, file / 'x.png', ('.png',)),
            'a full disk': partial(limited, partial(writable_folder, Path(root) / 'full'))}.items():
        yield Case('unwritable', name, partial(refuses, call))


def limited(call):
    """Call where files may not grow beyond 64 kB, as on a disk that is full."""
    import resource
    import signal
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)


def resumed_otherwise(root):
    """A run of three epochs that is resumed from the first with something changed."""
    one, stocks = Run(root, 'finetune'), Run(root, 'finetune', stock=True)
    changed = {
        'seed': lambda c: c.randomness.update(seed=7),
        'batch size': lambda c: c.train_dataloader.update(batch_size=2),
        'learning rate': lambda c: c.optim_wrapper.optimizer.update(lr=0.5),
        'weight decay': lambda c: c.optim_wrapper.optimizer.update(weight_decay=0.5),
        'depth': lambda c: c.model.backbone.arch.update(num_layers=2),
        'heads': lambda c: c.model.backbone.arch.update(num_heads=1),
        'drop path': lambda c: c.model.backbone.update(drop_path_rate=0.9),
        'length': lambda c: c.train_cfg.update(max_epochs=9),
        'crops': lambda c: c.train_dataloader.dataset.get(
            'dataset', c.train_dataloader.dataset).pipeline[1].update(crop_ratio_range=(0.9, 1.0))}
    for name, edit in changed.items():
        yield Case('other-run', f'resumed with another {name}',
                   partial(refuses, partial(one.resumed, 5, edit=edit), said=SAID),
                   partial(stock, partial(stocks.resumed, 5, edit=edit)))
    yield Case('other-run', 'resumed with nothing changed', partial(one.survives, 5))


def logs(root):
    root = Path(root)
    good = json.dumps(dict(task='linprobe', method='m', metric='top1', value=1.0))
    for name, text in {
            'NaN for a value': good.replace('1.0', 'NaN'), 'half a line': good[:20],
            'an empty file': '', 'a mark of byte order': '\ufeff' + good, 'a list': '[1, 2]',
            'two lines in one': good + good, 'zeros': '\0' * 100}.items():
        folder = root / name.replace(' ', '_')
        folder.mkdir()
        (folder / 'results.jsonl').write_text(text + '\n', encoding='utf-8')

        def ours(folder=folder):
            records, _ = read_results([folder])
            return all(np.isfinite(r.get('value') or 0) or r['status'] != 'ok' for r in records)

        def by_stock(folder=folder):
            import pandas as pd
            said = stock(lambda: pd.read_json(folder / 'results.jsonl', lines=True))
            return 'ok, read' if said == 'takes it' else 'no line is read'
        yield Case('torn', f'results.jsonl with {name}', ours, by_stock)


HOSTILE = ('a_b|c', r'\input{/etc/passwd}', '<script>alert(1)</script>', '=HYPERLINK("x")',
           'two\nlines', '../../x', '50% & #', 'left\u202eright')


def names(root):
    """Methods with names that a format would take for its own; each is a word in the table."""
    for number, name in enumerate(HOSTILE):
        path = Path(root) / str(number) / 'results.jsonl'
        path.parent.mkdir()
        append_result(path, dict(
            row='linprobe/x', method=name, recipe='x', task='linprobe', dataset='ImageNet-1k',
            split='val',
            metric='accuracy/top1', value=1., unit='%', seed=0, protocol={}, config='',
            checkpoint=None, checkpoint_sha256=None, reduced=False, tables=[1]))

        def ours(path=path):
            frames = build_tables(read_results([path])[0], tables=(1,))
            text = {kind: render(frames, kind) for kind in ('markdown', 'html', 'latex', 'csv')}
            cells = [cell for row in csv.reader(io.StringIO(text['csv'])) for cell in row]
            rows = [line for line in text['markdown'].splitlines() if line.startswith('|')]
            bars = {len(re.findall(r'(?<!\\)[|]', row)) for row in rows}
            return ('<script' not in text['html'] and r'\input{/' not in text['latex']
                    and not any(cell.startswith(('=', '@')) for cell in cells) and len(bars) == 1)

        def by_stock(name=name):
            import pandas as pd
            frame = pd.DataFrame(dict(method=[name], value=[1.]))
            taken = [kind for kind, is_taken in dict(
                html='<script' in frame.style.to_html(), latex='input{/' in frame.to_latex(),
                csv=name.startswith('=') and name[:5] in frame.to_csv(),
                markdown='|' in name or '\n' in name).items() if is_taken]
            return f'taken for a command: {" ".join(taken)}' if taken else 'ok, printed'
        yield Case('names', f'a method called {name!r}', ours, by_stock)


@contextlib.contextmanager
def missing(package):
    """No module of this name can be imported."""
    was, sys.modules[package] = sys.modules.get(package), None
    try:
        yield
    finally:
        sys.modules.pop(package)
        if was is not None:
            sys.modules[package] = was


def packages(root):
    """What is not installed is a feature that is off, or a hint."""
    def logs_without_tensorboard():
        cfg = Config(dict(visualizer=dict(vis_backends=[dict(type='LocalVisBackend')])))
        was, training.find_spec = training.find_spec, lambda name: None
        try:
            training.add_tensorboard(cfg)
        finally:
            training.find_spec = was
        return len(cfg.visualizer.vis_backends) == 1
    yield Case('optional', 'no tensorboard: no log for it', logs_without_tensorboard)

    def asked_for():
        path = config('pretrain', root, edit=lambda cfg: cfg.visualizer.update(
            vis_backends=[dict(type='TensorboardVisBackend')]))
        with missing('torch.utils.tensorboard'), missing('tensorboardX'):
            return refuses(partial(run, path, Path(root) / 'work'), said='[Tt]ensorboard')
    yield Case('optional', 'tensorboard asked for and not there', asked_for)


def cases(root=None, quick=False):
    """A `Case` for each: refused (or read) as it should be. quick changes nothing."""
    root = Path(root or tempfile.mkdtemp(prefix='attacks_'))
    canary = root / 'canary'
    for number, make in enumerate([
            partial(checkpoints, canary=canary), partial(poisoned_meta, canary=canary),
            partial(annotations, canary=canary), archives, places, logs, names, packages,
            resumed_otherwise]):
        folder = root / str(number)
        folder.mkdir()
        yield from make(folder)


def controls(root, quick=False):
    """The same demands on code that is not ours, or without what refuses: each has to fail."""
    root = Path(root)
    canary, folder = root / 'canary', root / 'files'
    folder.mkdir()
    made = damaged_files(folder, canary)
    for name in ('os.system in a zip', 'exec in the old format', 'another width',
                 'a flipped byte'):
        yield Case('malicious', f"{name}, mmengine's loader", partial(
            unchanged, partial(stock_load, made[name]), vit(), canary))
    archive = root / 'up.tar'
    with tarfile.open(archive, 'w') as f:
        f.addfile(tarfile.TarInfo('../escaped'))
    yield Case('archives', "../ in a tar, Python's extractall", partial(
        refuses, partial(extracted, archive, root)))
    one = Run(root, 'finetune')

    def edit(cfg):
        without('semmae.ResultRecorder')(cfg)
        cfg.randomness.update(seed=7)
    yield Case('other-run', 'another seed, no ResultRecorder', partial(
        refuses, partial(one.resumed, 5, edit=edit), said=SAID))
