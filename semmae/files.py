"""Files that are whole or absent, places that can be written, archives that stay in a folder."""
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
from pathlib import Path, PurePosixPath


def write_atomically(path, write, writer=''):
    """``write(file)`` into a temporary neighbour of ``path``, synced, then renamed.

    If writing fails, ``path`` is what it was before and the neighbour is gone.
    writer: tells apart those who may write the same file at the same time. One who was killed and
    comes back writes over what it left.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial{writer}')
    try:
        with open(partial, 'wb') as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder):
    """What was renamed or removed in ``folder`` stays so when the machine loses power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path) -> Path:
    """Where the digest of ``path`` stands, in the format of ``sha256sum -c``."""
    return Path(f'{path}.sha256')


def check_digest(path) -> bool:
    """Whether ``path`` has a digest beside it; ValueError if that is not its own."""
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
    """Hex digest of a file; read once per process while it does not change."""
    at = os.stat(path)
    return _sha256(os.path.abspath(path), at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path, *unchanged):
    with open(path, 'rb') as f:
        digest = hashlib.sha256()
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def writable_folder(path, flag='--work-dir') -> Path:
    """The folder, made if need be; ValueError at once where nothing could be written later.

    Tried with a file of 1 MB, because a full disk and a quota let themselves be seen by nothing
    else.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, buffering=0) as f:
            if f.write(bytes(1 << 20)) < 1 << 20:
                raise OSError(None, 'the disk is full, or a limit on the size of files is reached')
            os.fsync(f.fileno())
    except OSError as error:
        raise ValueError(f'{flag} {path} cannot be written: {error.strerror}. Expected a folder '
                         'with space that you may write; give another one') from error
    return path


def writable_file(path, suffixes=(), flag='--out') -> Path:
    """The path, if a file can be written there; ValueError at once if not. Makes its folder.

    suffixes: of which its name has to have one, in either case; () allows any.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f'{flag} {path}: expected a name that ends in {" or ".join(suffixes)}')
    if path.is_dir():
        raise ValueError(f'{flag} {path} is a folder, expected the name of a file')
    writable_folder(path.parent, flag)
    return path


MOST_MEMBERS, MOST_BYTES = 5_000_000, 1 << 40  # ImageNet has 1.4 million files, 150 GB
MOST_GROWTH = 200  # times the size of the archive; images hardly shrink, texts tenfold


def unpack(archive, folder, sha256_wanted=None, most_members=MOST_MEMBERS, most_bytes=MOST_BYTES):
    """Unpack a .tar (.gz, .bz2, .xz) or .zip into ``folder``, new or not; returns how many files.

    What stands at the top of the archive is put there whole, once everything is unpacked.
    ValueError, and nothing new in the folder, for another hash, for a member that is there already,
    that would lie outside or is neither file nor folder (links, devices), and for more members or
    bytes than allowed, or so many for the size of the archive that it is a bomb: told by what is
    unpacked, not by what the archive says.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f'no archive at {archive}')
    if sha256_wanted and (found := sha256(archive)) != sha256_wanted.lower():
        raise ValueError(f'{archive}: found sha256 {found}, expected {sha256_wanted}; get it again')
    is_new = not folder.exists()
    writable_folder(folder, '--out')
    there = {*os.listdir(folder)}
    most_bytes = min(most_bytes, max(MOST_GROWTH * archive.stat().st_size, 1 << 20))
    partial = Path(tempfile.mkdtemp(prefix=f'{archive.name}.partial', dir=folder))
    count = done = members = 0
    try:
        for name, source in members_of(archive):
            members += 1
            if members > most_members:
                raise ValueError(f'more than {most_members} members')
            pure = PurePosixPath(name.replace('\\', '/'))
            if pure.is_absolute() or '..' in pure.parts or {*name.partition('/')[0]} & {*':\0'}:
                raise ValueError(f'member {name!r} would lie outside of the folder')
            if there.intersection(pure.parts[:1]):
                raise ValueError(f'{folder / pure.parts[0]} is there already; remove it, or give '
                                 'another --out')
            target = partial / pure
            if source is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, open(target, 'xb') as f:
                while block := source.read(1 << 20):
                    done += len(block)
                    if done > most_bytes:
                        raise ValueError(f'it unpacks to more than {most_bytes / 1e6:.0f} MB')
                    f.write(block)
            count += 1
        for name in os.listdir(partial):
            os.rename(partial / name, folder / name)
    except (ValueError, OSError, EOFError, RuntimeError, tarfile.TarError,
            zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f'{archive} is not unpacked: {error}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # which it is if nothing came into it
    return count


def members_of(archive):
    """(name, open file, or None for a folder) of each member; ValueError for any other kind."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as f:
            for member in f.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ValueError(f'member {member.filename!r} is a link or a device')
                yield member.filename, None if member.is_dir() else f.open(member)
        return
    with tarfile.open(archive) as f:
        for member in f:
            if not (member.isfile() or member.isdir()):
                raise ValueError(f'member {member.name!r} is a link or a device')
            yield member.name, None if member.isdir() else f.extractfile(member)
