"""Atomic writes, checks that a path is writable, and safe unpacking of archives."""
import contextlib
import functools
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from .progress_bar import Bar


def require_checkpoint(path):
    """Raises FileNotFoundError for the path of a missing checkpoint; an address is not checked."""
    if path and '://' not in str(path) and not Path(path).is_file():
        raise FileNotFoundError(f'no checkpoint at {path}; train it first, or give another path')


def require_folder(path, what='image folder', hint=''):
    """Raises FileNotFoundError for a missing folder: 'no image folder at PATH', then ``hint``."""
    if not Path(path).is_dir():
        raise FileNotFoundError(f'no {what} at {path}{hint}')


def write_atomically(path, write, writer=''):
    """``write(file)`` into a temporary file beside ``path``, synced, then renamed to ``path``.

    If writing fails, ``path`` is unchanged and the temporary file is removed.
    writer: a name for each of several writers of one file; each replaces its own temporary file.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial{writer}')
    try:
        with partial.open('wb') as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)  # so that the rename survives a power failure
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path) -> Path:
    """The file with the digest of ``path``, in the format of ``sha256sum -c``."""
    return Path(f'{path}.sha256')


def check_digest(path) -> bool:
    """Whether ``path`` has a digest file; ValueError if the digest in it differs."""
    stated = digest_file(path)
    if not stated.is_file():
        return False
    wanted, found = stated.read_text(errors='replace')[:64], sha256(path)
    if found != wanted:
        raise ValueError(
            f'{path} is damaged or was changed: its sha256 is {found[:16]}..., expected '
            f'{wanted[:16]}... ({stated.name}). Take another checkpoint, or delete {stated.name} '
            'if you changed the file yourself')
    return True


def sha256(path) -> str:
    """Hex digest of a file; read once per process while the file does not change."""
    path = Path(path).absolute()
    at = path.stat()
    return _sha256(path, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path, *unchanged):
    digest = hashlib.sha256()
    with path.open('rb') as f, Bar(f'sha256 of {path.name}', path.stat().st_size, 'bytes') as bar:
        while block := f.read(1 << 20):
            digest.update(block)
            bar.add(len(block))
    return digest.hexdigest()


def writable_folder(path, flag='--work-dir') -> Path:
    """The folder, made if absent; ValueError if nothing can be written into it.

    Writes a file of 1 MB, because only a write shows a full disk or a quota.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, buffering=0) as f:
            if f.write(bytes(1 << 20)) < 1 << 20:
                raise OSError(None, 'the disk is full, or a limit on the size of files is reached')
            os.fsync(f.fileno())
    except OSError as error:
        raise ValueError(f'{flag} {path} cannot be written: {error.strerror}. Expected a '
                         'writable folder with free space; give another one') from error
    return path


def writable_file(path, suffixes=(), flag='--out') -> Path:
    """The path, in a folder made if absent; ValueError if no file can be written there.

    suffixes: the endings that its name may have, in either case; () allows any.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f'{flag} {path}: expected a name that ends in {" or ".join(suffixes)}')
    if path.is_dir():
        raise ValueError(f'{flag} {path} is a folder, expected the name of a file')
    writable_folder(path.parent, flag)
    return path


MOST_MEMBERS, MOST_BYTES = 5_000_000, 1 << 40  # ImageNet has 1.4 million files, 150 GB
MOST_GROWTH = 200  # times the size of the archive; texts compress about tenfold, images hardly
ARCHIVE_ERRORS = (ValueError, OSError, EOFError, RuntimeError, tarfile.TarError,
                  zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def unpack(archive, folder, sha256_wanted=None) -> int:
    """Unpack a .tar (.gz, .bz2, .xz) or .zip into ``folder``; returns the number of files.

    The top of the archive is moved into the folder when everything is unpacked. ValueError, and
    nothing new in the folder, for another hash, for a member that exists already, that would lie
    outside or is neither file nor folder (link, device), and for more unpacked members or bytes
    than MOST_MEMBERS, MOST_BYTES or MOST_GROWTH allow.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f'no archive at {archive}')
    if sha256_wanted and (found := sha256(archive)) != sha256_wanted.lower():
        raise ValueError(f'{archive}: got sha256 {found}, expected {sha256_wanted}; download it '
                         'again')
    is_new = not folder.exists()
    writable_folder(folder, '--out')
    partial = Path(tempfile.mkdtemp(prefix=f'{archive.name}.partial', dir=folder))
    try:
        count = unpack_into(partial, archive, folder)
        for entry in [*partial.iterdir()]:
            entry.rename(folder / entry.name)
    except ARCHIVE_ERRORS as error:
        raise ValueError(f'{archive} is not unpacked: {error}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only an empty folder is removed
    return count


def zip_members(archive: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, open file or None for a folder) of each member of a zip archive."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f'member {info.filename!r} is a link or a device')
            yield info.filename, None if info.is_dir() else file.open(info)


def tar_members(archive: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, open file or None for a folder) of each member of a tar archive."""
    try:
        file = tarfile.open(fileobj=archive)
    except tarfile.ReadError:  # its text has a line for each compression
        raise ValueError('it is damaged, or no .tar (.gz, .bz2, .xz) and no .zip') from None
    with file:
        for info in file:
            if not (info.isfile() or info.isdir()):
                raise ValueError(f'member {info.name!r} is a link or a device')
            yield info.name, file.extractfile(info)


def unpack_into(partial: Path, archive: Path, folder: Path) -> int:
    """Unpacks into ``partial`` what will move to ``folder``; returns the number of files."""
    count, done, size = 0, 0, archive.stat().st_size
    taken = {entry.name for entry in folder.iterdir()}
    most_bytes = min(MOST_BYTES, max(MOST_GROWTH * size, 1 << 20))
    members = zip_members if zipfile.is_zipfile(archive) else tar_members
    with archive.open('rb') as file, Bar(f'unpacking {archive.name}', size, 'bytes') as bar:
        for number, (name, source) in enumerate(members(file), 1):
            if number > MOST_MEMBERS:
                raise ValueError(f'more than {MOST_MEMBERS} members')
            path = PurePosixPath(name.replace('\\', '/'))
            if path.is_absolute() or '..' in path.parts or {*name.partition('/')[0]} & {*':\0'}:
                raise ValueError(f'member {name!r} would lie outside of the folder')
            if taken.intersection(path.parts[:1]):
                raise ValueError(f'{folder / path.parts[0]} exists already; remove it, or give '
                                 'another --out')
            target = partial / path
            if source is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open('xb') as f:
                while block := source.read(1 << 20):
                    done += len(block)
                    if done > most_bytes:
                        raise ValueError(f'it unpacks to more than {most_bytes / 1e6:.0f} MB')
                    f.write(block)
            count += 1
            bar.to(file.tell())
    return count
