"""Reads checkpoint files as data: tensors and plain values. Never runs code from a file."""
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

from ..files import check_digest, sha256, write_atomically


def _statistics_of_history(owner, name):
    """``getattr`` for what mmengine's log buffers need it for, and for nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'the file asks for getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# Plain containers of numbers that stand beside the weights: mmengine's log, the options (MAE, DINO,
# iBOT) and the learning rates, which are numpy's. A file names numpy's functions as the numpy that
# wrote it did: numpy.core is 1, numpy._core is 2.
_numpy = np._core if hasattr(np, '_core') else np.core
SAFE = [HistoryBuffer, (_statistics_of_history, 'builtins.getattr'), argparse.Namespace,
        np.ndarray, np.dtype,
        *((function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')
          for function in (_numpy.multiarray._reconstruct, _numpy.multiarray.scalar)),
        *{type(np.dtype(t)) for t in ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', 'b1')}]

TIMEOUT = 30  # seconds without a byte, after which a download is given up
URL = re.compile(r'https?://')


def read_checkpoint(path, map_location='cpu') -> dict:
    """A checkpoint's content as tensors and plain values; never runs code from the file.

    path: of a file, or an http(s) address (`local_file`). Reads what torch.save (new and old
    format) and safetensors write. Raises FileNotFoundError, and ValueError for a file that is
    damaged, differs from the digest beside it, holds no dict or asks for anything but the classes
    in `SAFE`; of those,
    argparse.Namespace holds the options of MAE, DINO and iBOT.
    """
    path = local_file(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}; train it first, or give another path')
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
    except Exception as error:  # a file can make its reader raise anything, MemoryError too
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) is not a checkpoint that can be read as plain '
            f'tensors: {reason(error)}. Expected a file written by torch.save or safetensors with '
            'weights only, in full length; it was not executed.') from error
    return content


def check_records(path):
    """ValueError for a zip of torch.save in which a byte changed, or that grows when it is read.

    torch writes a CRC-32 of each record and does not look at it when it loads; it compresses none.
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
    """What torch says is wrong with a file, without its advice to trust it."""
    lines = (str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
             or [type(error).__name__])
    said = next((line for line in lines if 'GLOBAL' in line), lines[0])
    return said.partition('. Please')[0].strip(' .')


def local_file(path) -> Path:
    """The path; for an http(s) address that of its copy in torch's cache, downloaded if need be.

    An address may end in ``#sha256=<hex>``, which the file then has to have; otherwise in its name
    as torch's do: ``name-<first digits of the sha256>.pth``. ValueError where they differ, or for
    an address that cannot be read.
    """
    if not URL.match(str(path)):
        return Path(path)
    url, _, fragment = str(path).partition('#')
    name = Path(urlsplit(url).path).name or 'checkpoint.pth'
    named = re.search(r'-([0-9a-f]{8,64})\.', name)
    key, _, wanted = fragment.lower().partition('=')
    if fragment and not (key == 'sha256' and re.fullmatch('[0-9a-f]{64}', wanted)):
        raise ValueError(f'{path}: found #{fragment}, expected #sha256= and 64 hex digits')
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
        raise ValueError(f'{url}: found sha256 {found}, expected {wanted}; what was downloaded is '
                         'deleted. Check the address and whom you have it from')
    return copy


def download(url, file):
    """Write what is at ``url``; ValueError if it cannot be read, or ends early."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            size, done = int(answer.headers.get('Content-Length') or 0), 0
            print(f'{url}: {size / 1e6:.1f} MB' if size else url, flush=True)
            while block := answer.read(1 << 20):
                file.write(block)
                done += len(block)
    except (OSError, ValueError) as error:
        raise ValueError(f'{url} cannot be downloaded: {error}') from error
    if size and done != size:
        raise ValueError(f'{url} ended after {done} of {size} bytes; try again')
