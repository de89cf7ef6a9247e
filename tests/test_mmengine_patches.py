"""Importing changes nothing outside the package; `install` changes it, once."""
import json
import subprocess
import sys
import textwrap

import pytest
from mmengine.fileio import get_file_backend
from mmengine.fileio import handlers as mmengine_handlers
from mmengine.runner import CheckpointLoader
from mmengine.runner import runner as mmengine_runner

from semmae.checkpoints.write import write_checkpoint
from semmae.mmengine_patches import AtomicBackend, NoPickle, PlainYaml, install

pytestmark = pytest.mark.slow

# Everything that the libraries offer under a name, and their tables, before and after.
SNAPSHOT = textwrap.dedent('''
    import importlib, json, os, pkgutil, signal, sys, warnings

    import mmengine, mmpretrain, mmpretrain.datasets, mmpretrain.evaluation, mmpretrain.models
    import mmseg, mmseg.datasets, mmseg.models, torch, torchvision, yaml
    import mmengine.fileio.handlers.registry_utils as handlers
    import mmengine.fileio.backends.registry_utils as backends
    import mmengine.runner.checkpoint

    LIBRARIES = 'mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'torch', 'yaml', 'pickle', 'logging'

    def state():
        found = {}
        for name in MODULES:
            for key, value in vars(sys.modules[name]).items():
                if not key.startswith('__') and type(value) is not type(sys):
                    found[f'{name}.{key}'] = id(value)
                    if isinstance(value, type) and value.__module__ == name:
                        found.update({f'{name}.{key}.{k}': id(v) for k, v in vars(value).items()
                                      if not k.startswith(('__', '_abc_'))})
        tables = dict(handlers=handlers.file_handlers, backends=backends.backends,
                      prefixes=backends.prefix_to_backends,
                      schemes=mmengine.runner.checkpoint.CheckpointLoader._schemes,
                      yaml=yaml.SafeLoader.yaml_constructors)
        found.update({f'{t}: {k}': id(v) for t, table in tables.items() for k, v in table.items()})
        found.update({f'signal {s}': str(signal.getsignal(s)) for s in signal.valid_signals()})
        found.update({'environ': sorted(os.environ.items()), 'hook': id(sys.excepthook),
                      'threads': torch.get_num_threads(), 'warnings': str(warnings.filters)})
        return found

    MODULES = sorted(m for m in sys.modules if m.split('.')[0] in LIBRARIES)
    before = state()
    import semmae
    names = [m.name for m in pkgutil.walk_packages(semmae.__path__, 'semmae.')]
    for name in names:
        importlib.import_module(name)
    after = state()
    importlib.import_module('semmae.mmengine_patches').install()
    final = state()
    print(json.dumps([len(names), len(before),
                      *([k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
                        for a, b in ((before, after), (after, final)))]))
''')


@pytest.fixture(scope='module')
def changes():
    """(modules, names compared, changed by importing them, changed by `install`)."""
    done = subprocess.run([sys.executable, '-c', SNAPSHOT], capture_output=True, text=True,
                          check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_every_module_changes_nothing_outside_the_package(changes):
    modules, compared, by_import, _ = changes
    assert modules > 80 and compared > 20_000
    assert by_import == []


def test_the_comparison_sees_what_install_changes(changes):
    assert {'mmengine.runner.runner.save_checkpoint', 'backends: local', 'handlers: pkl',
            'handlers: yaml', 'schemes: '} <= {*changes[-1]}


def tables():
    return (mmengine_runner.save_checkpoint, *CheckpointLoader._schemes.items(),
            *mmengine_handlers.file_handlers.items(), type(get_file_backend('work_dirs/x.pth')))


def test_install_twice_changes_nothing_more():
    install()
    once = tables()
    install()
    assert tables() == once
    assert mmengine_runner.save_checkpoint is write_checkpoint
    assert type(get_file_backend('work_dirs/x.pth')) is AtomicBackend
    assert type(mmengine_handlers.file_handlers['pkl']) is NoPickle
    assert type(mmengine_handlers.file_handlers['yaml']) is PlainYaml
