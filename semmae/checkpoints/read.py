"""Reads checkpoint files as tensors and plain values. Never runs code from a file."""
import argparse
import hashlib
import pickle
import re
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from filelock import FileLock
from mmengine.logging import HistoryBuffer

from ..files import check_digest, require_checkpoint, sha256, write_atomically
from ..progress_bar import Bar


def _statistics_of_history(owner, name):
    """``getattr`` for the statistics of mmengine's log buffers only."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'the file asks for getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# Containers of numbers that a file may hold besides the weights: mmengine's log, options (MAE,
# DINO, iBOT) and learning rates of numpy. A file has the module names of the numpy that wrote it:
# numpy.core in version 1, numpy._core in version 2. Pickles of arrays call private _reconstruct.
_numpy = np._core if hasattr(np, '_core') else np.core
SAFE = [HistoryBuffer, (_statistics_of_history, 'builtins.getattr'), argparse.Namespace,
        np.ndarray, np.dtype,
        *((function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')
          for function in (_numpy.multiarray._reconstruct, _numpy.multiarray.scalar)),
        *{type(np.dtype(t)) for t in ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', 'b1')}]

TIMEOUT = 30  # seconds without a byte after which a download fails
URL = re.compile(r'https?://')


def read_checkpoint(path, map_location='cpu') -> dict:
    """The content of a checkpoint as tensors and plain values; never runs code from the file.

    path: of a file by torch.save (new or old format) or safetensors, or an http(s) address
    (`local_file`). Raises FileNotFoundError, and ValueError for a file that is damaged, differs
    from its digest, holds no dict or asks for anything but the classes in `SAFE`.
    """
    path = local_file(path)
    require_checkpoint(path)
    check_digest(path)
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file
            content = load_file(path)
        else:
            check_records(path)
            with torch.serialization.safe_globals(SAFE):
                content = torch.load(path, map_location=map_location, weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f'it holds a {type(content).__name__} instead of a dict')
        for key in ('state_dict', 'meta') if 'state_dict' in content else ():
            if not isinstance(content.get(key) or {}, dict):
                raise ValueError(f'its {key} is a {type(content[key]).__name__} instead of a dict')
    except Exception as error:  # a file can cause any error, also MemoryError
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) is not a checkpoint that can be read as plain '
            f'tensors: {reason(error)}. Expected a complete file by torch.save or safetensors with '
            'weights only; it was not executed. Get the file again.') from error
    return content


def check_records(path):
    """ValueError for a zip file of torch.save with a changed byte or a compressed record.

    torch writes a CRC-32 of each record and does not check it when it loads; it never compresses.
    """
    if not zipfile.is_zipfile(path):
        return  # the old format, or no checkpoint
    with zipfile.ZipFile(path) as records:
        for record in records.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f'its record {record.filename} is compressed, to '
                                 f'{record.compress_size} of {record.file_size} bytes')
        if damaged := records.testzip():
            raise ValueError(f'its record {damaged} is damaged (CRC-32)')


def reason(error) -> str:
    """The fault of a file, from torch's error without its advice to trust the file."""
    lines = (str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
             or [type(error).__name__])
    said = next((line for line in lines if 'GLOBAL' in line), lines[0])
    return said.partition('. Please')[0].strip(' .')


def local_file(path) -> Path:
    """The path of a file, or of the copy of an http(s) address in torch's cache (downloaded once).

    The sha256 of a download is checked if the address ends in ``#sha256=<hex>``, or the name ends
    in its first digits as in torch: ``name-<digits>.pth``. ValueError if it differs, or if the
    address cannot be read.
    """
    if not URL.match(str(path)):
        return Path(path)
    url, _, fragment = str(path).partition('#')
    name = Path(urlsplit(url).path).name or 'checkpoint.pth'
    named = re.search(r'-([0-9a-f]{8,64})\.', name)
    key, _, wanted = fragment.lower().partition('=')
    if fragment and not (key == 'sha256' and re.fullmatch('[0-9a-f]{64}', wanted)):
        raise ValueError(f'{path}: got #{fragment}, expected #sha256= and 64 hex digits')
    wanted = wanted or (named[1] if named else '')
    folder = Path(torch.hub.get_dir()) / 'semmae'
    folder.mkdir(parents=True, exist_ok=True)
    # Two addresses may end in the same name.
    place = hashlib.sha256(url.encode()).hexdigest()[:12]
    copy = folder / f'{place}_{re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:]}'
    with FileLock(f'{copy}.lock'):  # one of the processes of a training downloads
        if not copy.is_file():
            write_atomically(copy, lambda f: download(url, f))
    found = sha256(copy)
    if not found.startswith(wanted):
        copy.unlink()
        raise ValueError(f'{url}: got sha256 {found}, expected {wanted}; the download is deleted. '
                         'Check the address and its source')
    return copy


def download(url, file):
    """Write the content of ``url`` to a file; ValueError if it cannot be read, or ends early."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            size, done = int(answer.headers.get('Content-Length') or 0), 0
            with Bar(f'downloading {url}', size, 'bytes') as bar:
                while block := answer.read(1 << 20):
                    file.write(block)
                    done += len(block)
                    bar.to(done)
    except (OSError, ValueError) as error:
        raise ValueError(f'{url} cannot be downloaded: {error}') from error
    if size and done != size:
        raise ValueError(f'{url} ended after {done} of {size} bytes; try again')
