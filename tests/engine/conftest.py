"""A run that others are compared with, made once."""
import pytest

from .tiny import config, trained


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    """The work directory of a tiny training of three epochs of six iterations, uninterrupted."""
    folder = tmp_path_factory.mktemp('whole')
    code, said = trained(folder, config(folder))
    assert code == 0, said
    return folder / 'work'
