"""Files that are whole or absent."""
import hashlib
import os
from pathlib import Path


def write_atomically(path, write, writer=''):
    """``write(file)`` into a temporary neighbour of ``path``, synced, then renamed.

    writer: tells apart those who may write the same file at the same time. One who was killed and
    comes back writes over what it left.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial{writer}')
    with open(partial, 'wb') as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)


def sha256(path) -> str:
    """Hex digest of a file."""
    with open(path, 'rb') as f:
        digest = hashlib.sha256()
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
