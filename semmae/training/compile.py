"""torch.compile for the parts of a model that do not change with the training progress."""
import os
import shutil
import sysconfig
from pathlib import Path
from types import MethodType

import torch

from ..config.identity import compile_of
from ..models.layers import unwrapped


def take_compile(cfg):
    """How ``cfg`` compiles: False, True or options. Renames its key ``compile`` to ``compiled``.

    With ``compile``, mmengine would compile the whole step and recompile if ``progress`` changes.
    """
    how = compile_of(cfg)
    if not isinstance(how, (bool, dict)):
        raise ValueError(f'compile is {how!r}, expected True, False or a dict of options of '
                         'torch.compile (in a config: dict(_delete_=True, ...))')
    cfg.compile, cfg.compiled = False, how
    return how


def compile_parts(model, how):
    """torch.compile a model in place; names in checkpoints stay. how: False, True or options.

    `SemMAE`: everything after the mask, as one graph, which does not depend on the progress. Other
    models: encoder and decoder. Raises ValueError if the compiler is missing.
    """
    if how is False:
        return
    model, options = unwrapped(model), {} if how is True else how
    needs_compiler = (options.get('backend', 'inductor') == 'inductor'
                      and next(model.parameters()).device.type == 'cpu')
    if needs_compiler and (missing := missing_of_compiler()):
        raise ValueError(f'compile={how} on a CPU needs a C++ compiler and the headers of Python; '
                         f'{missing} is missing. Install it (Debian, Ubuntu: apt install g++ '
                         'python3-dev; CXX names another compiler), or leave compile out')
    if hasattr(model, 'pixel_loss'):
        # A method of this object, so that a copy of the model computes with its own tensors.
        model.pixel_loss = MethodType(torch.compile(type(model).pixel_loss, **options), model)
    else:
        for name, part in model.named_children():
            if name in ('backbone', 'encoder', 'decoder'):
                part.compile(**options)


def missing_of_compiler():
    """The missing requirements of torch.compile on a CPU, or ''."""
    compiler = os.environ.get('CXX', 'g++')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    return next((str(name) for name, is_there in (
        (compiler, shutil.which(compiler)), (header, header.is_file())) if not is_there), '')
