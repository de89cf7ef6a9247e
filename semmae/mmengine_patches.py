"""Everything that this package changes in mmengine, in one visible `install`.

Importing any module of `semmae` changes nothing. The tools call `install`; a run that other tools
start (``mim test``) calls it through `PatchHook`, which stands in the configs' ``default_hooks``.
"""
import functools
from pathlib import Path

import yaml
from mmengine.dist import get_rank
from mmengine.fileio import LocalBackend, io, register_backend
from mmengine.fileio.handlers import PickleHandler, YamlHandler, register_handler
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader
from mmengine.runner import runner as mmengine_runner

from .checkpoints.read import read_checkpoint
from .checkpoints.write import write_checkpoint
from .files import digest_file, write_atomically
from .registry import HOOKS

# Places that mmengine reads without a check, from lists of addresses or stores of its own.
ELSEWHERE = ('open-mmlab://', 'openmmlab://', 'torchvision://', 'modelzoo://', 'mmcls://',
             'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def load_from_checked_file(filename, map_location=None, logger=None):
    """mmengine's loader: ours, without its fallback to unsafe unpickling.

    Without ``meta['config']`` too, which mmengine executes when it resumes.
    """
    content = read_checkpoint(filename, map_location or 'cpu')
    if isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def load_from_elsewhere(filename, map_location=None, logger=None):
    raise ValueError(f'{filename} is not loaded: what is there would not be checked. Download the '
                     'file and give its path, or its https:// address with #sha256= and its digest')


class NoPickle(PickleHandler):
    """Writes pickles, as mmengine does for predictions, and refuses to read any."""

    def load_from_fileobj(self, file, **kwargs):
        raise ValueError(f'{getattr(file, "name", "a pickle")}: a pickle can run any code, so none '
                         'is read. Write the annotations as .json or .txt')

    def load_from_path(self, filepath, **kwargs):
        raise ValueError(f'{filepath}: a pickle can run any code, so none is read. Write the '
                         'annotations as .json or .txt')


class PlainYaml(YamlHandler):
    """Reads YAML of plain values; mmengine's handler calls the functions that tags name."""

    def load_from_fileobj(self, file, **kwargs):
        return yaml.load(file, Loader=yaml.SafeLoader)


class AtomicBackend(LocalBackend):
    """mmengine's local files, written beside their place, synced and renamed.

    A run killed while it saves leaves the last complete checkpoint, never half of a new one.
    """

    def put(self, obj, filepath):
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        # Every rank dumps the metrics of a test under the same name.
        write_atomically(filepath, lambda f: f.write(obj), get_rank() or '')

    def put_text(self, obj, filepath, encoding='utf-8'):
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath):
        super().remove(filepath)
        digest_file(filepath).unlink(missing_ok=True)


@functools.cache  # once for each process
def install():
    """Make mmengine write files whole and read them without running code. Idempotent.

    Replaces, for this process: the function that `Runner` saves checkpoints with, the loaders of
    checkpoints by address, the handlers of pickle and YAML files, the backend of local files.
    """
    mmengine_runner.save_checkpoint = write_checkpoint
    # mmengine logs what follows load_from_ in a loader's name. '' is every path without a scheme.
    CheckpointLoader.register_scheme(
        prefixes=['', 'http://', 'https://'], loader=load_from_checked_file, force=True)
    CheckpointLoader.register_scheme(prefixes=ELSEWHERE, loader=load_from_elsewhere, force=True)
    register_handler(['pkl', 'pickle'])(NoPickle)
    register_handler(['yaml', 'yml'])(PlainYaml)
    register_backend('local', AtomicBackend, force=True, prefixes='')
    io.backend_instances.clear()  # backends that were made before


@HOOKS.register_module()
class PatchHook(Hook):
    """Calls `install` when a runner builds its hooks, so before it reads a file."""

    def __init__(self):
        install()
