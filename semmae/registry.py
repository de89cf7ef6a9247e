"""Registries of scope ``semmae``, children of mmengine's roots.

mmengine imports this module for ``type='semmae.PartGuidedMasking'`` in any config, also in
another library's runner; no ``custom_imports`` is needed.
"""
import contextlib
import io
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

from .shipped import IS_CHECKOUT

FORKS = ('mmengine', 'mmcv', 'mmpretrain', 'mmsegmentation')


def check_openmmlab(find_version=version):
    """ImportError unless the OpenMMLab forks (``onedl-*``) are installed without the originals.

    Both write the same packages; with both installed, the files on disk depend on the order of
    installation.
    """
    def found(name):
        try:
            return find_version(name)
        except PackageNotFoundError:
            return None

    cure = 'Make a new environment and run: ' + (
        'pip install -r requirements/lock.txt && pip install --no-deps -e .' if IS_CHECKOUT else
        "pip install 'semmae[openmmlab]'")
    originals = {n: found(n) for n in FORKS if found(n)}
    missing = [f'onedl-{n}' for n in FORKS if not found(f'onedl-{n}')]
    if originals:
        names = ', '.join(f'{n} {v}' for n, v in originals.items())
        raise ImportError(
            f'semmae needs the maintained OpenMMLab forks (onedl-*), got the originals: {names}. '
            f'Both write the same packages, so do not install one over the other. {cure}')
    if missing:
        raise ImportError(f"semmae needs {', '.join(missing)}, which are not installed. {cure}")


check_openmmlab()

# Harmless output and warnings of the forks on import: an optional package, unused CUDA operators,
# calls that a later torch will not have.
PRINTED = ('Could not import OneDL',)
WARNED = {r'Fail to import ``MultiScaleDeformableAttention``': UserWarning,
          r'`torch\.jit\.(script|interface)` is deprecated': DeprecationWarning}


@contextlib.contextmanager
def quiet_forks():
    """Leave out `PRINTED` and `WARNED`; print the rest to stderr, so that piped results stay clean.
    """
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            for message, category in WARNED.items():
                warnings.filterwarnings('ignore', message, category)
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if line not in PRINTED:
                print(line, file=sys.stderr)


with quiet_forks():
    import mmpretrain.datasets
    import mmpretrain.evaluation
    import mmpretrain.models  # noqa: F401
    import mmseg.datasets
    import mmseg.models  # noqa: F401
    from mmengine import registry as root


def _child(parent, *locations):
    return root.Registry(parent.name, parent=parent, scope='semmae', locations=list(locations))


DATA = [f'semmae.datasets.{m}' for m in
        ('seeded', 'part_dataset', 'transforms', 'fast_loading', 'image_cache', 'cub_parts',
         'inat2019', 'cars', 'image_reading', 'part_image_net', 'pascal_part')]

MODELS = _child(root.MODELS, 'semmae.models', 'semmae.probes.frozen',
                *(f'semmae.probes.{m}' for m in
                  ('knn', 'linear', 'attentive', 'logistic', 'seg_linear', 'seg_logistic',
                   'seg_knn', 'depth')))
DATASETS = _child(root.DATASETS, *DATA)
TRANSFORMS = _child(root.TRANSFORMS, *DATA)
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, *DATA)
HOOKS = _child(root.HOOKS, 'semmae.mmengine_patches', 'semmae.config.data_check',
               *(f'semmae.training.{m}' for m in
                 ('progress', 'part_health', 'rank_state', 'checkpointing', 'ema', 'finite',
                  'stopping')),
               'semmae.parts.quality', 'semmae.recording.record',
               'semmae.visualization.mask_monitor')
OPTIMIZERS = _child(root.OPTIMIZERS, 'semmae.training.lars')
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, 'semmae.training.optim')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'semmae.training.precision')
LOOPS = _child(root.LOOPS, 'semmae.training.knn_loop', 'semmae.training.loops',
               'semmae.probes.loop')
METRICS = _child(root.METRICS, 'semmae.evaluation.metrics', 'semmae.evaluation.knn',
                 'semmae.evaluation.segmentation')
VISBACKENDS = _child(root.VISBACKENDS, 'semmae.training.trackers')
