"""Archives are unpacked into a folder that may hold other things, whole or not at all."""
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from semmae.commands import main
from semmae.files import unpack

REPO = Path(__file__).resolve().parents[1]


def an_archive(path, **members):
    with zipfile.ZipFile(path, 'w') as f:
        for name, text in members.items():
            f.writestr(name.replace('__', '/'), text)
    return path


def files(root):
    return {path.relative_to(root).as_posix(): path.read_text()
            for path in root.rglob('*') if path.is_file()}


def test_the_top_of_an_archive_stands_in_the_folder_beside_what_was_there(tmp_path):
    first = an_archive(tmp_path / 'cub.zip', CUB__images__a='a', attributes='b')
    second = an_archive(tmp_path / 'more.zip', other='c')
    data = tmp_path / 'new/data'
    for archive in (first, second):
        said = subprocess.run(
            [sys.executable, REPO / 'tools/unpack.py', archive, '--out', data], text=True,
            stdout=subprocess.PIPE, check=True).stdout
        assert said.endswith(f' files -> {data}\n')
    assert files(data) == {'CUB/images/a': 'a', 'attributes': 'b', 'other': 'c'}
    assert {path.name for path in data.iterdir()} == {'CUB', 'attributes', 'other'}


def test_nothing_is_overwritten_and_a_refused_archive_leaves_the_folder_unchanged(tmp_path):
    (tmp_path / 'data/CUB').mkdir(parents=True)
    (tmp_path / 'data/CUB/images').write_text('mine')
    before = files(tmp_path / 'data')
    taken = an_archive(tmp_path / 'taken.zip', new='1', CUB__images__a='a')
    with pytest.raises(ValueError, match='data/CUB exists already; remove it, or give another'):
        unpack(taken, tmp_path / 'data')
    outside = an_archive(tmp_path / 'outside.zip', new='1', **{'..__escaped': 'x'})
    with pytest.raises(ValueError, match='would lie outside'):
        unpack(outside, tmp_path / 'data')
    assert files(tmp_path / 'data') == before
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['CUB']
    with pytest.raises(ValueError, match='got sha256'):
        unpack(taken, tmp_path / 'absent', '0' * 64)
    with pytest.raises(ValueError, match='would lie outside'):
        unpack(outside, tmp_path / 'absent')
    assert not (tmp_path / 'absent').exists()
    with pytest.raises(ValueError, match='cannot be written'):
        unpack(taken, tmp_path / 'taken.zip')


@pytest.mark.parametrize('content', [b'', b'nonsense'])
def test_a_file_that_is_no_archive_is_refused_in_one_line(content, tmp_path, capsys):
    (tmp_path / 'x.tgz').write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main(['data', 'unpack', str(tmp_path / 'x.tgz'), '--out', str(tmp_path / 'out')])
    line, = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and 'x.tgz is not unpacked: it is damaged, or no .tar' in line
    assert not (tmp_path / 'out').exists()
