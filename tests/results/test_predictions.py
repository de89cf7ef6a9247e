"""Stored predictions: what is damaged is no prediction."""
import struct
import zipfile

import numpy as np
import pytest

from semmae.results.predictions import read_predictions


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_changed_bit_of_any_label_is_found_by_its_checksum(tmp_path, save):
    path = tmp_path / 'x.npz'
    save(path, images=['a', 'b'], labels=[1, 2], predicted=[1, 1])
    assert len(read_predictions(path)['labels']) == 2
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo('labels.npy')
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack_from('<HH', content, entry.header_offset + 26)
    end = entry.header_offset + 30 + name + extra + entry.compress_size
    content[end - 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match='x.npz holds no predictions'):
        read_predictions(path)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / 'x.npz'
    np.savez(path, images=['a', 'b'], labels=[1, 2], predicted=[1, 1])
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('score.npy', b'')
    with pytest.raises(ValueError, match='x.npz holds no predictions: score is not an array'):
        read_predictions(path)
