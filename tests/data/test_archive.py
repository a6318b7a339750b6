"""Extraction of valid and hostile archives."""

import io
import tarfile

import pytest

from dltrain.core.errors import DataError
from dltrain.data.archive import extract


def archive(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(info)
    return path


def test_only_named_members_are_extracted(tmp_path):
    path = archive(
        tmp_path / "a.tar.gz", ("../evil", b"x"), ("/tmp/evil", b"x"), ("d/a", b"abc"), ("d/b", b"")
    )
    extract(path, {"d/a": 3}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert (tmp_path / "out" / "a").read_bytes() == b"abc"
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"abcd", "/etc/passwd"], ids=["other size", "link"])
def test_members_of_wrong_type_or_size_are_refused(tmp_path, content):
    path = archive(tmp_path / "a.tar.gz", ("d/a", content))
    with pytest.raises(DataError, match="expected d/a to be a regular file of 3 bytes"):
        extract(path, {"d/a": 3}, tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()


def test_the_error_names_a_missing_member(tmp_path):
    with pytest.raises(DataError, match=r"a\.tar\.gz: the archive does not contain d/a"):
        extract(archive(tmp_path / "a.tar.gz", ("d/b", b"")), {"d/a": 3}, tmp_path / "out")


def test_the_error_names_a_damaged_archive(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("d/a", bytes(100_000)))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        extract(path, {"d/a": 100_000}, tmp_path / "out")
