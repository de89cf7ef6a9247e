"""The packages; all else is in setup.cfg. Installed, mm_configs/ is semmae/mm_configs."""
from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = 'semmae.mm_configs'

setup(packages=[*find_packages(include=['semmae*']), CONFIGS,
                *(f'{CONFIGS}.{folder}' for folder in find_namespace_packages('mm_configs'))],
      package_dir={CONFIGS: 'mm_configs'})
