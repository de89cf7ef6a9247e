"""Folders of data about images, with a manifest: the base of part store and image cache."""
import hashlib
import json
from pathlib import Path

from ..files import write_atomically

FORMAT = 1


def images_hash(images) -> str:
    """Identifies a list of relative paths."""
    return hashlib.sha256(as_bytes(images)).hexdigest()


def as_bytes(images) -> bytes:
    """Relative paths, one a line; names that are not UTF-8 keep their bytes."""
    return '\n'.join(images).encode(errors='surrogateescape')


def differences(found, wanted, skip=()) -> str:
    """'grid 14, expected 28; ...' for the fields that differ from ``wanted``, or ''."""
    def short(key, value):
        return value[:12] if key.endswith('sha256') and value else value
    return '; '.join(f'{k} {short(k, found.get(k))}, expected {short(k, v)}'
                     for k, v in wanted.items() if k not in skip and found.get(k) != v)


def read_manifest(path) -> dict:
    """The JSON object in a file; ValueError with the path if it holds none."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error}). Remove its folder '
                         'and make it again') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, expected a JSON object. Remove '
                         'its folder and make it again')
    return content


def write_json(path, content):
    """Writes a manifest, atomically."""
    write_atomically(path, lambda f: f.write(json.dumps(content, indent=1).encode() + b'\n'))


def write_complete(root, images, manifest):
    """Writes images.txt and then manifest.json, which makes the folder ``root`` complete."""
    write_atomically(root / 'images.txt', lambda f: f.write(as_bytes(images) + b'\n'))
    write_json(root / 'manifest.json', dict(manifest, manifest_sha256=manifest_hash(manifest)))


def manifest_hash(manifest) -> str:
    """Identifies the fields of a manifest in any order, without this hash itself."""
    rest = {key: value for key, value in manifest.items() if key != 'manifest_sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class Stored:
    """A complete folder. Raises FileNotFoundError if incomplete, ValueError if it was changed."""

    what = 'store'
    unfinished = ''  # the name of a file that only an unfinished folder has
    numbers: tuple[str, ...] = ('count',)  # fields of the manifest that must be integers

    def __init__(self, root):
        self.root = Path(root)
        path = self.root / 'manifest.json'
        if not path.is_file():
            state = 'an unfinished' if (self.root / self.unfinished).exists() else 'no'
            raise FileNotFoundError(f'{state} {self.what} at {root}. {self.command()}')
        self.manifest = read_manifest(path)
        if self.manifest.get('format') != FORMAT:
            raise ValueError(f'{self.what} {path} has format {self.manifest.get("format")}, this '
                             f'version reads {FORMAT}. {self.command()}')
        digest = manifest_hash(self.manifest)  # earlier versions did not write it
        if self.manifest.get('manifest_sha256', digest) != digest or any(
                type(self.manifest.get(name)) is not int for name in self.numbers):
            raise self.changed(path)

    def command(self) -> str:
        """The command that makes the folder."""
        raise NotImplementedError

    def changed(self, path, how='') -> ValueError:
        """The error for a file that was changed. how: more about it, after a colon."""
        return ValueError(f'{path} was changed after it was written{how}. Remove the {self.what}. '
                          f'{self.command()}')

    def require_hash(self, path, digest, wanted, of=''):
        """ValueError if the hash of a file, or of a part ``of`` it, is not the wanted one."""
        if digest != wanted:
            raise self.changed(path, f': {of}sha256 {digest[:12]}, the manifest says '
                                     f'{wanted and str(wanted)[:12]}')

    def images(self) -> list:
        """The relative paths, sorted; ValueError if the list was changed."""
        path = self.root / 'images.txt'
        names = path.read_bytes().decode(errors='surrogateescape').split('\n')[:-1]
        self.require_hash(path, images_hash(names), self.manifest.get('images_sha256'))
        return names

    def __len__(self):
        return self.manifest['count']

    def require_fields(self, found, wanted):
        """ValueError if fields differ from those in ``wanted``."""
        if wrong := differences(found, wanted):
            raise ValueError(f'{self.what} {self.root} does not fit: {wrong}. {self.command()}')
