"""The toy set that several files read, made once."""
import pytest

from semmae.datasets.toy import write_toy

SMALL = dict(num_imagenet=(24, 16), num_cub=(32, 16), num_ade=(6, 3), progress=False)


@pytest.fixture(scope='session')
def made(tmp_path_factory):
    """A toy set of the arguments `SMALL`; not to be changed."""
    return write_toy(tmp_path_factory.mktemp('made') / 'toy', **SMALL)
