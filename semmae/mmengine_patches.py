"""Everything that this package changes in mmengine, in one function, `install`.

Importing `semmae` changes nothing. The tools call `install`; runs that other tools start
(``mim test``) call it through `PatchHook` in the configs' ``default_hooks``.
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

# Prefixes of addresses that mmengine downloads without checking a digest.
ELSEWHERE = ('open-mmlab://', 'openmmlab://', 'torchvision://', 'modelzoo://', 'mmcls://',
             'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def load_from_checked_file(filename, map_location=None, logger=None):
    """The content of a checkpoint, read without unpickling code, for mmengine's table of loaders.

    The result lacks ``meta['config']``, which mmengine would execute when it resumes.
    """
    content = read_checkpoint(filename, map_location or 'cpu')
    if isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def load_from_elsewhere(filename, map_location=None, logger=None):
    """ValueError for an address whose content cannot be checked."""
    raise ValueError(f'{filename} is not loaded, because its content cannot be checked. Download '
                     'the file and give its path, or its https:// address with #sha256= and its '
                     'digest')


class NoPickle(PickleHandler):
    """Writes pickles, as mmengine does for predictions, and refuses to read any."""

    def load_from_path(self, filepath, **kwargs):
        raise ValueError(f'{filepath} is not read: a pickle can run any code. Write the '
                         'annotations as .json or .txt')

    def load_from_fileobj(self, file, **kwargs):
        self.load_from_path(getattr(file, 'name', 'a pickle'))


class PlainYaml(YamlHandler):
    """Reads YAML of plain values; mmengine's handler would call functions named in tags."""

    def load_from_fileobj(self, file, **kwargs):
        return yaml.load(file, Loader=yaml.SafeLoader)


class AtomicBackend(LocalBackend):
    """mmengine's local files, written to a temporary file, synced and renamed.

    A run that is killed while it saves leaves the last complete checkpoint, never a partial one.
    """

    def put(self, obj, filepath):
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        # Each process dumps the metrics of a test under the same name.
        write_atomically(filepath, lambda f: f.write(obj), get_rank() or '')

    def put_text(self, obj, filepath, encoding='utf-8'):
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath):
        super().remove(filepath)
        digest_file(filepath).unlink(missing_ok=True)


@functools.cache  # once for each process
def install():
    """Make mmengine write complete files and read files without running code. Idempotent.

    Replaces in this process: the function with which `Runner` saves checkpoints, the loaders of
    checkpoints by prefix, the handlers of pickle and YAML files, the backend of local files.
    """
    mmengine_runner.save_checkpoint = write_checkpoint
    # The prefix '' matches every path. mmengine logs the part of a loader's name after load_from_.
    CheckpointLoader.register_scheme(
        prefixes=['', 'http://', 'https://'], loader=load_from_checked_file, force=True)
    CheckpointLoader.register_scheme(prefixes=ELSEWHERE, loader=load_from_elsewhere, force=True)
    register_handler(['pkl', 'pickle'])(NoPickle)
    register_handler(['yaml', 'yml'])(PlainYaml)
    register_backend('local', AtomicBackend, force=True, prefixes='')
    io.backend_instances.clear()  # instances of the replaced backends


@HOOKS.register_module()
class PatchHook(Hook):
    """Calls `install` when a runner builds its hooks, which is before it reads a file."""

    def __init__(self):
        install()
