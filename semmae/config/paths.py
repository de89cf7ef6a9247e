"""Paths that a command or a config names, checked before torch and the mm libraries are loaded."""
from pathlib import Path

from ..datasets.part_store import PartStore
from ..files import require_checkpoint, require_folder
from ..needs import run_of, with_needs
from .lookup import Fields, Node, at, innermost, leaves
from .options import check_option
from .reading import merge, require_config, unchecked_config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def require_paths(config: str | Path, options: Fields | None = None,
                  loaders: tuple[str, ...] = LOADERS) -> None:
    """Raises FileNotFoundError for a config, a data folder, a part store or a checkpoint that is
    missing, and ValueError for a config that cannot be read.

    options: --cfg-options. loaders: the keys of the data that the run reads.
    """
    cfg = unchecked_config(config)
    for key, value in (options or {}).items():
        parent = at(cfg, key.rpartition('.')[0])
        if not isinstance(parent, dict) or 'type' not in parent:  # else its class is looked up
            check_option(cfg, config, key, value)
    merge(cfg, config, options)
    with run_of(config):
        try:
            for loader in loaders:
                require_data(innermost(cfg.get(loader)))
            if LOADERS[0] in loaders:  # a test loads another file
                require_checkpoint(at(cfg, 'model.backbone.init_cfg.checkpoint'))
        except FileNotFoundError as error:
            raise FileNotFoundError(with_needs(str(error))) from error


def require_data(data: Node) -> None:
    """Raises FileNotFoundError for the part store or the folder of a data set, if it is missing."""
    store, root = data.get('part_store'), data.get('data_root')
    if store and not (Path(store) / 'manifest.json').is_file():
        PartStore(store)  # says how to make it
    places = [value for key in ('ann_file', 'data_prefix') for _, value in
              leaves({key: data.get(key)}) if isinstance(value, str)]
    if root and '://' not in root and not any(Path(place).is_absolute() for place in places):
        require_folder(root)


def require_inputs(config: str | Path, checkpoint: str | Path | None = None,
                   images: str | Path | None = None) -> None:
    """Raises FileNotFoundError or ValueError for a missing input of a command."""
    require_config(config)
    if images:
        require_folder(images)
    require_checkpoint(checkpoint)
