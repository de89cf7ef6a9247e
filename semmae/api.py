"""Python API: what the commands do, as functions (docs/python.md).

N images, L = h x w patches, D channels. ``images`` is a folder (at any depth), a file, or a list of
files. Each function imports what it needs when it is called.
"""
import warnings


def load_backbone(name=None, checkpoint=None, config=None, interpolate_offset=None, options=None):
    """A frozen backbone with its weights (`probes.embed.LoadedBackbone`).

    name: of a ViT of timm, with the weights of ``checkpoint``, or without one with timm's
        (downloaded).
    checkpoint: a file; alone, it is of MAE's architecture (ours, MAE, iBOT, DINO, DeiT).
    config: derived from mm_configs/dense/, in place of a name.
    interpolate_offset: how the code of ``checkpoint`` resizes positions; 0.1 for DINO and iBOT,
        else 0. options: overrides of the config, {'model.backbone.drop_path_rate': 0}. Images are
        resized and cropped by the pipeline of its val_dataloader.
    Raises ValueError if a tensor of the file does not fit, for random weights and for an unknown
    name, and FileNotFoundError for a missing file.
    """
    from .config.options import read_config
    from .files import require_checkpoint
    from .mmengine_patches import install
    from .probes.embed import load
    from .suites.catalogue import DENSE
    from .suites.dense import dense_rows
    from .suites.rows import INIT
    if bool(config) == bool(name) and not checkpoint or config and name:
        raise ValueError('expected one of name, config and checkpoint; checkpoint may go with one '
                         'of the others')
    require_checkpoint(checkpoint)
    install()
    options = dict(options or {})
    if config:
        return load(read_config(config, options | ({INIT: str(checkpoint)} if checkpoint else {})))
    row, = dense_rows(DENSE, name, checkpoint, ['imagenet'], interpolate_offset)
    return load(read_config(row.config, row.options | options))


def embed(backbone, images, kinds=('class', 'mean'), batch_size=64, num_workers=None):
    """Features of images from a frozen backbone (`probes.embed.Features`).

    backbone: of `load_backbone`. kinds: some of 'class' (the class token), 'mean' (of the patch
    tokens) and 'patches' of the last layer; arrays are (N, D), those of 'patches' (N, L, D),
    float32. num_workers: processes that decode; None: none below 4 cores, else up to 8.
    Raises ValueError for an image that cannot be read, and if the backbone has none of the kinds;
    FileNotFoundError for a folder without images.
    """
    from .probes.embed import embed
    return embed(backbone, images, kinds, batch_size, num_workers)


def learned_parts(config, checkpoint, images, grid=None, source='learned', options=None):
    """Parts of images from a trained part learner (`parts.extract.Parts`).

    config, checkpoint: of part learning, for example mm_configs/semmae_parts.py. grid: patches a
    side; None: the config's. source: a key of `models.part_sources.SOURCES`. options: the overrides
    that the learner was trained with.
    Raises ValueError for another config, for a checkpoint that does not fit and for an image that
    cannot be read; FileNotFoundError for a missing file or a folder without images.
    """
    from .config.paths import require_inputs
    require_inputs(config, checkpoint)
    from .mmengine_patches import install
    from .parts.extract import parts_of
    from .parts.learner import LearnerSource
    install()
    return parts_of(LearnerSource(config, checkpoint, grid, source, options), images)


def encoder_parts(backbone, images, num_parts=6, source='kmeans', grid=None, object=None):
    """Parts of images from a frozen backbone, without part learning (`parts.extract.Parts`).

    backbone: of `load_backbone`, with a class token. source: 'kmeans', 'heads', 'colour', 'voronoi'
    or 'cells'. grid: patches a side; None: that of the backbone. object: config of a
    `models.foreground.ObjectMap`, such as dict(by='border', threshold='otsu'): part 0 is then the
    background, and the other parts share the object; with num_parts=2 there is one, the object.
    Raises ValueError for another source or object, for a backbone without a class token and for an
    image that cannot be read; FileNotFoundError for a folder without images.
    """
    from .parts.encoder import BackboneSource
    from .parts.extract import parts_of
    return parts_of(BackboneSource(backbone, num_parts, source, grid, object), images)


def predict(config, checkpoint, images, options=None):
    """A list of `training.predict.Prediction`, one for each image.

    config, checkpoint: of a trained classifier or segmenter. options: overrides of the config.
    The images go through the pipeline of the config's test, one at a time.
    Raises ValueError for a config without classes, for a checkpoint that does not fit and for an
    image that cannot be read; FileNotFoundError for a missing file or a folder without images.
    """
    from .config.paths import require_inputs
    require_inputs(config, checkpoint)
    from .training.predict import predict
    return list(predict(config, checkpoint, images, options))


def tables(paths, measured=True, parts=False):
    """{table: DataFrame} of the results below work directories, as `semmae tables` prints them.

    paths: folders or result files. The keys are 1 to 7 (the paper's tables), 'dense' and names of
    others; ``frame.attrs`` holds title and legend. measured: only lines that hold a result; else
    the numbers of the paper and of others, too. parts: the tables of part quality instead.
    A result that cannot be read is a warning. Raises FileNotFoundError for a missing path, and
    ValueError for a file without a result.
    """
    records = results_below(paths)
    from .reporting.frames import frames_of
    return frames_of(records, is_measured=measured, is_parts=parts)


def long_table(paths):
    """A DataFrame with a line for each mean of all results below ``paths`` (see `tables`).

    The columns are those of `reporting.long.COLUMNS`: row, method, task, mean, std, n, the 95 %
    interval (low, high) and more.
    """
    records = results_below(paths)
    from .reporting.frames import long_frame
    return long_frame(records)


def results_below(paths):
    """Records of all results below ``paths``; a warning for each that cannot be read."""
    from .results.reading import read_records
    records, problems = read_records(paths)
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
    return records


def register_models():
    """Add the configs of this package to `mmpretrain.list_models` and `mmpretrain.get_model`.

    There are no weights. A second call changes nothing.
    """
    from . import registry  # noqa: F401  checks that mmpretrain is the fork
    from .shipped import CONFIGS
    from mmpretrain.apis.model import ModelHub  # isort: skip
    if not ModelHub.has('semmae_pretrain'):
        ModelHub.register_model_index(CONFIGS / 'metafile.yml', config_prefix=CONFIGS.parent)
