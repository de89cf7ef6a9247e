"""The environment of a result: git commit, package versions and device."""
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ('torch', 'torchvision', 'timm', 'numpy', 'pillow', 'opencv-python', 'onedl-mmengine',
            'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation')


def git_commit():
    """The project's commit, '-dirty' if tracked files differ from it; None outside a checkout."""
    def git(*command):
        return subprocess.run(['git', *command], cwd=Path(__file__).parent, text=True, timeout=10,
                              capture_output=True, check=True).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + (
            '-dirty' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """{package: version}; None for a package that is not installed under this name."""
    def find(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return None
    return dict(python=platform.python_version(), **{name: find(name) for name in PACKAGES})


def device():
    """The name of the GPU, or the CPU with its number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'cpu ({torch.get_num_threads()} threads)'
