"""Writing a store in shards, by any number of processes; an interrupted one resumes.

N images. Part store and feature store are written this way.
"""
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import __version__
from . import stored


class ShardedWriter:
    """Writes a store in shards; any number of processes may write the same one together.

    images: relative paths, in the order of the store. manifest: dict of what the store is made of.
    A subclass writes the file of a shard (`shard_file`), calls `written`, and joins all shards in
    ``merge``.

    A process claims a shard until it is written; starting, claiming, merging and cleaning up need
    one lock of the folder. The kernel frees these flock(2) locks when their process ends. So a
    store is bit-identical, even if writers are killed and started again. The file system needs
    atomic renames and flocks that all processes see: local disks, NFS 4, CephFS, GPFS, Lustre with
    ``flock``. With ``localflock`` all must be on one node.
    """

    what = 'store'
    suffix = '.npy'
    # Must agree while a store is made, and may differ afterwards: they say how it is made.
    how: Sequence[str] = ('created_by', 'batch_size', 'shard_size')
    cure = 'Remove the folder'

    def __init__(self, root: Path | str, images: Sequence[str], manifest: dict[str, Any],
                 shard_size: int):
        self.root, self.images, self.shard_size = Path(root), list(images), shard_size
        manifest = dict(
            manifest, format=stored.FORMAT, count=len(self.images), shard_size=shard_size,
            images_sha256=stored.images_hash(self.images), created_by=f'semmae {__version__}')
        self.manifest = json.loads(json.dumps(manifest))  # as read from the file
        self.shards = self.root / 'shards'
        self.claimed: dict[int, FileLock] = {}
        self.lock = FileLock(self.root / 'lock')
        if not self.is_complete():  # a complete store may be read-only: no lock
            self.root.mkdir(parents=True, exist_ok=True)
            with self.lock:
                self._start()
        if self.is_complete():
            self._require_same(self.root / 'manifest.json', 'a', self.how)

    def _start(self):
        plan = self.shards / 'plan.json'
        if plan.exists():
            self._require_same(plan, 'an unfinished')
        elif not self.is_complete():
            self.shards.mkdir(exist_ok=True)
            stored.write_json(plan, self.manifest)

    def _require_same(self, path, what, skip=()):
        wrong = stored.differences(stored.read_manifest(path), self.manifest, skip)
        if wrong:
            raise ValueError(f'{self.root} holds {what} {self.what} that differs: '
                             f'{wrong}. {self.cure}')

    def is_complete(self) -> bool:
        return (self.root / 'manifest.json').exists()

    def todo(self) -> list[tuple[int, int]]:
        """(start, stop) of the shards that are not on disk yet."""
        done = {path.name for path in self.shards.glob(f'*{self.suffix}')}
        if self.is_complete():  # checked last: completing a store removes the shards
            return []
        starts = range(0, len(self.images), self.shard_size)
        return [self.shard_of(s) for s in starts if self.shard_file(s).name not in done]

    def count_written(self) -> int:
        """The number of images whose shards are on disk."""
        return len(self.images) - sum(stop - start for start, stop in self.todo())

    def shard_of(self, index: int) -> tuple[int, int]:
        """(start, stop) of the shard that an image is in."""
        start = index // self.shard_size * self.shard_size
        return start, min(start + self.shard_size, len(self.images))

    def shard_file(self, start: int) -> Path:
        """The file of the shard that begins with image ``start``."""
        return self.shards / f'{start:010d}{self.suffix}'

    def claim(self) -> tuple[int, int] | None:
        """(start, stop) of a shard that is neither written nor claimed, or None."""
        with self.lock:
            for start, stop in self.todo():
                if start in self.claimed:
                    continue
                lock = FileLock(self.shard_file(start).with_suffix('.lock'))
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                if self.shard_file(start).exists():  # written since `todo` was called
                    lock.release()
                    continue
                self.claimed[start] = lock
                return start, stop
        return None

    def release(self) -> None:
        """Give up the shards that are claimed and not written."""
        while self.claimed:
            self.claimed.popitem()[1].release()

    def written(self, start: int) -> None:
        """A subclass has written the file of this shard: give up its claim."""
        if start in self.claimed:
            self.claimed.pop(start).release()

    def complete(self) -> None:
        """Join the shards, once for all processes.

        Leaves only the store in the folder, even if an earlier process was killed in this method.
        """
        left = (self.shards, self.root / 'lock')
        if not self.is_complete() or any(path.exists() for path in left):
            with self.lock:
                if not self.is_complete():
                    if self.todo():
                        raise ValueError(f'{self.root}: shards are missing, from image '
                                         f'{self.todo()[0][0]} on')
                    stored.write_complete(self.root, self.images, self.merge())
                shutil.rmtree(self.shards, ignore_errors=True)  # other processes may remove it too
                (self.root / 'lock').unlink(missing_ok=True)

    def merge(self) -> dict[str, Any]:
        """Write the files of the store from its shards; returns the whole manifest."""
        raise NotImplementedError


class Claims:
    """Batches of (index, name), shard by shard, as long as the writer can claim one.

    A batch never crosses the end of its shard. So its images, and every bit of the store, do not
    depend on the number of processes. Iterate again for shards that other processes gave up.
    """

    def __init__(self, writer: ShardedWriter, batch_size: int):
        self.writer, self.batch_size = writer, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, str]]]:
        while shard := self.writer.claim():
            first, end = shard
            for start in range(first, end, self.batch_size):
                chosen = range(start, min(start + self.batch_size, end))
                yield [(i, self.writer.images[i]) for i in chosen]
