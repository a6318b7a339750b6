"""Downloads from a local server with faults."""

import gzip
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from web_server import serving

from dltrain.core.errors import DataError
from dltrain.data.download import UnreachableError, fetch

CONTENT = bytes(range(256)) * 4000  # about 1 MB
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "folder" / "file.bin"


def leftovers(destination):
    return {path.name for path in destination.parent.iterdir()} - {
        destination.name,
        ".download.lock",
    }


def test_downloads_once(server, destination):
    assert fetch([server.url], destination, DIGEST) == destination
    assert destination.read_bytes() == CONTENT
    assert not leftovers(destination)
    fetch([server.url], destination, DIGEST)
    assert len(server.requests) == 1


def test_a_cut_connection_is_resumed(server, destination):
    server.cuts = [300_000, 400_000]
    fetch([server.url], destination, DIGEST)
    assert destination.read_bytes() == CONTENT
    assert [header for _, header in server.requests] == [None, "bytes=300000-", "bytes=700000-"]


def test_a_later_call_resumes(server, destination):
    server.cuts = [100_000, 100_000, 100_000]
    with pytest.raises(UnreachableError, match="broke after 300000 of 1024000 bytes"):
        fetch([server.url], destination, DIGEST)
    assert not destination.exists()
    fetch([server.url], destination, DIGEST)
    assert destination.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=300000-"


def test_without_range_support_the_whole_file_is_requested(server, destination):
    server.cuts, server.ranges = [300_000], False
    fetch([server.url], destination, DIGEST)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("ignores_if_range", [False, True])
def test_parts_of_different_files_are_not_combined(server, destination, ignores_if_range):
    server.content = CONTENT[::-1]
    server.cuts = [300_000, 0, 0]
    with pytest.raises(UnreachableError):
        fetch([server.url], destination, DIGEST)
    server.content, server.etag = CONTENT, '"v2"'
    server.ignores_if_range = ignores_if_range
    fetch([server.url], destination, DIGEST)
    assert destination.read_bytes() == CONTENT


def test_another_mirror_restarts_the_download(server, destination):
    server.content, server.cuts = CONTENT[::-1], [300_000, 0, 0]
    with pytest.raises(UnreachableError):
        fetch([f"{server.url}/one"], destination, DIGEST)
    server.content = CONTENT  # another address, another file, by chance with the same ETag
    fetch([f"{server.url}/two"], destination, DIGEST)
    assert server.requests[-1] == ("/two", None)


def test_without_a_strong_etag_the_download_restarts(server, destination):
    server.etag, server.cuts = 'W/"v1"', [300_000]
    fetch([server.url], destination, DIGEST)
    assert [header for _, header in server.requests] == [None, None]


def test_a_part_longer_than_the_file_is_discarded(server, destination):
    server.content, server.cuts = CONTENT * 2, [1_500_000, 0, 0]
    with pytest.raises(UnreachableError):
        fetch([server.url], destination, DIGEST)
    server.content = CONTENT
    fetch([server.url], destination, DIGEST)
    assert destination.read_bytes() == CONTENT


def test_a_wrong_file_is_not_kept(server, destination):
    server.content = b"something else"
    with pytest.raises(DataError, match=DIGEST) as error:
        fetch([server.url], destination, DIGEST)
    assert not isinstance(error.value, UnreachableError)
    assert not destination.exists()
    assert not leftovers(destination)


def test_digest_of_decompressed_content(server, destination):
    server.content = gzip.compress(CONTENT)
    fetch([server.url], destination, DIGEST, decompressed=True)
    assert gzip.decompress(destination.read_bytes()) == CONTENT


def test_a_damaged_gzip_file_is_not_kept(server, destination):
    server.content = gzip.compress(CONTENT)[:-20]
    with pytest.raises(DataError, match="damaged gzip stream"):
        fetch([server.url], destination, DIGEST, decompressed=True)
    assert not leftovers(destination)


def test_md5_digests_are_accepted(server, destination):
    fetch([server.url], destination, f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert destination.read_bytes() == CONTENT


def test_the_next_mirror_is_tried(server, destination):
    fetch(
        [f"{server.url}/missing", "http://127.0.0.1:9/", f"{server.url}/file"], destination, DIGEST
    )
    assert destination.read_bytes() == CONTENT


def test_redirects_are_followed(server, destination):
    server.redirect = f"{server.url}/file"
    fetch([f"{server.url}/redirect"], destination, DIGEST)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("scheme", ["file", "ftp"])
def test_redirects_to_other_schemes_are_refused(server, destination, tmp_path, scheme):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    server.redirect = f"{scheme}://127.0.0.1{secret}"
    with pytest.raises(UnreachableError, match=f"{scheme}://"):
        fetch([f"{server.url}/redirect"], destination, DIGEST)
    assert not destination.exists()


def test_a_file_url_is_refused(destination, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    with pytest.raises(UnreachableError, match="only http and https"):
        fetch([secret.as_uri()], destination, DIGEST)


def test_the_error_lists_every_failure(server, destination):
    with pytest.raises(UnreachableError) as error:
        fetch([f"{server.url}/missing", "http://127.0.0.1:9/"], destination, DIGEST)
    assert "404" in str(error.value)
    assert "refused" in str(error.value)
    assert str(destination) in str(error.value)


def test_the_error_names_an_unwritable_directory(tmp_path):
    (tmp_path / "folder").write_text("not a directory")
    with pytest.raises(DataError, match="can't be written"):
        fetch(["http://127.0.0.1:9/"], tmp_path / "folder" / "file", DIGEST)


def test_concurrent_calls_download_once(server, destination):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, [server.url], destination, DIGEST) for _ in range(4)]:
            done.result()
    assert destination.read_bytes() == CONTENT
    assert len(server.requests) == 1
