"""Reads config files; loads neither torch nor the mm libraries."""
import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from ..shipped import config_path, shipped_path
from .lookup import Fields


def require_config(path: str | Path) -> str:
    """The path of a config (`shipped.config_path`). FileNotFoundError or ValueError if it is none.
    """
    path = config_path(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}; the shipped ones are in mm_configs/')
    if Path(path).suffix != '.py':
        raise ValueError(f'{path}: a config of mmengine is a .py file, got '
                         f'{Path(path).suffix or "no suffix"}; the shipped ones are in mm_configs/')
    return path


def unchecked_config(path: str | Path) -> Config:
    """The config of a file as it is written.

    Raises FileNotFoundError or ValueError if there is no config at ``path``.
    """
    path = require_config(path)
    try:
        with bases_found():
            cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program of the user
        raise ValueError(f'{path} cannot be read as a config: {type(error).__name__}: '
                         f'{error}') from error
    return cfg


def merge(cfg: Config, path: str | Path, options: Fields | None) -> None:
    """Set overrides in place. Raises ValueError where they do not fit."""
    plain = {key.removeprefix('+'): value for key, value in (options or {}).items()}
    try:
        cfg.merge_from_dict(plain)
    except (TypeError, KeyError, IndexError, AssertionError) as error:
        raise ValueError(f'--cfg-options {" ".join(plain)}: they do not fit into {path}: '
                         f'{error}') from error


@contextlib.contextmanager
def bases_found() -> Iterator[None]:
    """Inside, ``_base_ = 'mmseg::...'`` finds the fork, and 'mm_configs/...' the shipped config.

    The name of the fork's distribution differs from that of its import package. A file beside the
    config comes before a shipped one.
    """
    before, lookup = MODULE2PACKAGE['mmseg'], Config._get_cfg_path

    def with_shipped(base: str, filename: str) -> tuple[str, str | None]:
        path, scope = lookup(base, filename)
        return path if Path(path).exists() else shipped_path(base) or path, scope

    MODULE2PACKAGE['mmseg'], Config._get_cfg_path = 'mmseg', staticmethod(with_shipped)
    try:
        yield
    finally:
        MODULE2PACKAGE['mmseg'], Config._get_cfg_path = before, staticmethod(lookup)
