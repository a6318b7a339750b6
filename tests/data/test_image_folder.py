"""Image folders: layouts, workers, caches and errors."""

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import gather

from dltrain.core.errors import DataError, OptionError
from dltrain.data import streaming, worker_reader
from dltrain.data.augment import Augment
from dltrain.data.image_decoding import decode_image


def save(path, seed, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Folder with 20 images in two classes."""
    for number in range(20):
        save(tmp_path / "images" / ("cat" if number % 2 else "ant") / f"{number:02}.png", number)
    return tmp_path / "images"


def make(build, folder, **options):
    return build("image_folder", **({"root": str(folder), "size": 8, "workers": 0} | options))


def test_one_folder_per_class(build, folder):
    data = make(build, folder, validation=0.25, test=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert data.spec.class_names == ("ant", "cat")
    assert data.spec.class_counts == (6, 6)
    assert data.spec.input_shape == (3, 8, 8)
    inputs, targets, index = gather(data.train, 5)
    assert inputs.shape == (12, 3, 8, 8)
    assert torch.bincount(targets).tolist() == [6, 6]
    assert index.tolist() == list(range(12))


def test_one_folder_per_split(build, folder, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "all").mkdir(exist_ok=True)
        for path in folder.rglob("*.png"):
            save(tmp_path / "all" / split / path.parent.name / path.name, int(path.stem))
    data = make(build, tmp_path / "all", validation=0.5, test=0)
    assert (len(data.train), len(data.validation), data.test) == (20, 20, None)
    assert torch.equal(gather(data.train)[0], gather(data.validation)[0])
    data = make(build, tmp_path / "all", test=4)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 20, 4)


def test_numeric_folder_names_keep_their_spelling_and_are_sorted_by_value(build, folder):
    for number in range(6):
        for name in ("10", "2"):
            save(folder / name / f"{number}.png", number)
    (folder / "ant").rename(folder / "007")
    (folder / "cat").rename(folder / "7")
    assert make(build, folder).spec.class_names == ("2", "007", "7", "10")


def test_file_names_need_not_be_utf8(build, folder):
    (folder / "ant").rename(folder / "a\udcff")
    next((folder / "cat").iterdir()).rename(folder / "cat" / "\udce9.png")
    data = make(build, folder)
    assert data.spec.class_names == ("a\udcff", "cat")
    assert len(data.files) == 20


def test_a_class_may_be_named_train(build, folder, tmp_path):
    (folder / "cat").rename(folder / "train")
    assert make(build, folder).spec.class_names == ("ant", "train")


@pytest.mark.parametrize("augment", [None, Augment(crop=1, flip=True, rotate=10)])
def test_workers_do_not_change_batches(build, folder, augment):
    plain, forked = (make(build, folder, workers=n, augment=augment) for n in (0, 2))
    for position in ({}, {"epoch": 0}, {"epoch": 1, "offset": 2}):
        state = torch.get_rng_state()
        expected = gather(plain.train, 3, **position)
        for ours, theirs in zip(expected, gather(forked.train, 3, **position), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(torch.get_rng_state(), state)  # the global generator is unchanged
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_reads_each_image_once_and_does_not_change_batches(build, folder, workers):
    augment = Augment(crop=1, flip=True)
    plain = make(build, folder, augment=augment)
    cached = make(build, folder, augment=augment, workers=workers, cache="memory")
    # The first epoch is resumed in the middle.
    for position in ({"epoch": 0, "offset": 2}, {"epoch": 1}, {"epoch": 2}, {}):
        expected = gather(plain.train, 3, **position)
        for ours, theirs in zip(expected, gather(cached.train, 3, **position), strict=True):
            assert torch.equal(ours, theirs)
        assert not multiprocessing.active_children()
    for path in folder.rglob("*.png"):
        path.unlink()  # they are in the cache
    gather(cached.train, 3, epoch=3)
    with pytest.raises(DataError):
        gather(cached.validation, 3)  # not in the cache yet


def test_a_cache_that_does_not_fit_is_refused_before_it_is_filled(build, folder, monkeypatch):
    monkeypatch.setattr("dltrain.data.cache.free_bytes", lambda device: 20 * 3 * 8 * 8)
    with pytest.raises(OptionError, match=r"20 decoded samples need .* GiB, and cpu has"):
        make(build, folder, cache="memory")
    monkeypatch.setattr("dltrain.data.cache.free_bytes", lambda device: 20 * 3 * 8 * 8 * 2)
    make(build, folder, cache="memory")


@pytest.mark.parametrize("free", [0, 5 * 4 * 3 * 8 * 8 - 1])
def test_too_little_shared_memory_is_reported_before_workers_start(
    build, folder, monkeypatch, free
):
    monkeypatch.setattr("dltrain.data.shared_memory.shared_memory_bytes", lambda: (free, 2**26))
    batches = make(build, folder, workers=2, test=0, validation=0).train.batches(4, epoch=0)
    with pytest.raises(
        DataError, match=r"^/dev/shm: shared memory is too small .*up to 5 of "
    ) as e:
        next(batches)
    assert "64.0 MiB" in str(e.value)
    assert "--shm-size" in str(e.value)
    assert "data.workers=0" in str(e.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("workers", "room"), [(2, (5 * 4 * 3 * 8 * 8, 2**26)), (2, None), (0, (0, 0))]
)
def test_shared_memory_that_suffices_or_is_not_needed_is_accepted(
    build, folder, monkeypatch, workers, room
):
    monkeypatch.setattr("dltrain.data.shared_memory.shared_memory_bytes", lambda: room)
    batches = make(build, folder, workers=workers, test=0, validation=0).train.batches(4, epoch=0)
    assert sum(len(batch) for batch in batches) == 20


def test_an_offset_skips_batches(build, folder):
    train = make(build, folder, augment=Augment(crop=1)).train
    whole = list(train.batches(3, epoch=4))
    for offset in (0, 1, 5, 6, 9):
        rest = list(train.batches(3, epoch=4, offset=offset))
        assert len(rest) == max(0, 6 - offset)
        for ours, theirs in zip(rest, whole[offset:], strict=True):
            assert torch.equal(ours.inputs, theirs.inputs)
            assert torch.equal(ours.targets, theirs.targets)
            assert torch.equal(ours.index, theirs.index)


def test_workers_end_with_an_abandoned_iteration(build, folder):
    batches = make(build, folder, workers=2).train.batches(2, epoch=0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def stops_at_the_third(number):
    """Return a sample; the third one stops the worker after its first batch has been sent."""
    if number == 2:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGSTOP)
    return torch.full((3,), float(number))


def test_a_worker_that_stops_before_its_batch_is_fetched_ends_the_run(monkeypatch):
    """The worker sends the batch on a request that has no deadline."""
    start = worker_reader.start_iterator

    def start_and_wait_until_stopped(loader):
        iterator = start(loader)
        (worker,) = multiprocessing.active_children()
        while Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        rescue = threading.Timer(60, worker.kill)  # ends the test if the watchdog fails
        rescue.daemon = True
        rescue.start()
        return iterator

    monkeypatch.setattr(worker_reader, "start_iterator", start_and_wait_until_stopped)
    split = streaming.Streaming(
        stops_at_the_third,
        torch.zeros(6, dtype=torch.int64),
        names=["a", "b", "c", "d", "e", "f"],
        sample_bytes=12,
        seed=0,
        workers=1,
        timeout=2,
    )
    with pytest.raises(DataError, match=r"^c: its worker process hangs: no batch in 2 s"):
        list(split.batches(2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(build, folder, workers):
    path = folder / "cat" / "07.png"
    path.write_bytes(path.read_bytes()[:200])
    data = make(build, folder, workers=workers, validation=0, test=0)
    with pytest.raises(DataError) as error:
        list(data.train.batches(4, epoch=0))
    assert str(error.value).startswith(f"{path}: not an image")
    assert not multiprocessing.active_children()


def test_readers_can_be_pickled(build, folder):
    read = make(build, folder).train.read
    assert torch.equal(pickle.loads(pickle.dumps(read))(1), read(1))


def test_images_are_normalized_with_imagenet_or_given_statistics(build, folder):
    data = make(build, folder, validation=0, test=0)
    path = sorted((folder / "ant").iterdir())[0]
    pixels = decode_image(path, (3, 8, 8), data.spec.inputs) / 255
    given = data.train
    own = make(build, folder, validation=0, test=0, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)).train
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    assert torch.allclose(gather(given)[0][0], (pixels - mean) / std, atol=1e-5)
    mean, std = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 4.0]])[..., None, None]
    assert torch.allclose(gather(own)[0][0], (pixels - mean) / std, atol=1e-5)


def test_gray_images_have_one_channel(build, folder):
    data = make(build, folder, channels=1)
    assert data.spec.input_shape == (1, 8, 8)
    assert gather(data.train)[0].shape == (16, 1, 8, 8)


def test_the_fingerprint_depends_on_the_files(build, folder):
    first = make(build, folder).fingerprint
    assert make(build, folder, seed=3).fingerprint == first
    (folder / "cat" / "07.png").rename(folder / "cat" / "08.png")
    assert make(build, folder).fingerprint != first


def test_errors_name_the_cause(build, folder, tmp_path):
    (folder / ".cache").mkdir()
    (folder / "notes.txt").write_text("not a class")
    assert make(build, folder).spec.num_classes == 2
    with pytest.raises(OptionError, match=r"expected 1 values, one per channel, got 3"):
        make(build, folder, channels=1, mean=(0.1, 0.2, 0.3))
    with pytest.raises(DataError, match="nowhere: can't be read"):
        make(build, tmp_path / "nowhere")
    with pytest.raises(DataError, match="ant: expected two or more folders, one per class, got 0"):
        make(build, folder / "ant")
    (folder / "bee").mkdir()
    with pytest.raises(DataError, match="bee: has no image"):
        make(build, folder)


def test_a_class_missing_in_the_training_split_is_named(build, tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "c")):
        save(tmp_path / "x" / split / name / "0.png", 0)
    with pytest.raises(DataError, match="c: expected a class of the training images, a, b, got c"):
        make(build, tmp_path / "x")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAIN", "VALIDATION", "TESTING"),
        ("Training", "dev", "testing"),
    ],
)
def test_split_folders_have_several_accepted_names(build, tmp_path, train, val, test):
    for split, count in ((train, 4), (val, 3), (test, 2)):
        for number in range(count):
            for name in ("ant", "cat"):
                save(tmp_path / "x" / split / name / f"{number}.png", number)
    data = make(build, tmp_path / "x")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 6, 4]
    assert data.spec.class_names == ("ant", "cat")
    assert build.warnings == []


@pytest.mark.parametrize("names", [("val", "valid"), ("test", "Testing"), ("train", "Training")])
def test_two_folders_for_one_split_are_refused(build, folder, tmp_path, names):
    for name in {"train", *names}:
        shutil.copytree(folder, tmp_path / "x" / name)
    names = " and ".join(sorted(names))
    with pytest.raises(DataError, match=f"x: {names} are both names of the .* split; keep one"):
        make(build, tmp_path / "x")


def test_splits_without_a_training_split_are_not_classes(build, folder, tmp_path):
    for name in ("Test", "Validation"):
        shutil.copytree(folder, tmp_path / "x" / name)
    with pytest.raises(DataError, match="has no folder named train"):
        make(build, tmp_path / "x")


def test_training_images_without_class_folders_are_not_a_class(build, tmp_path):
    for name in ("Train/1.png", "Train/2.png", "Test/3.png"):
        save(tmp_path / "x" / name, 0)
    with pytest.raises(DataError, match=r"Train: has 2 images and no class folders.*CLASS/IMAGE"):
        make(build, tmp_path / "x")


EMPTY = {
    "flat": (["7.png"], r"has 1 image and no class folder.* ant, cat.*predict RUN .*test/\*"),
    "nested": (["images/7.png"], r"has 1 image and no class folder.*predict RUN .*test/images/\*"),
    "empty": ([], "has no class folder.*add images or remove the folder"),
    "other files": (["7.heic", "README"], "has no class folder.*add images or remove the folder"),
}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("kind", EMPTY)
def test_a_split_without_classes_is_named_with_the_layout(build, folder, tmp_path, split, kind):
    files, message = EMPTY[kind]
    shutil.copytree(folder, tmp_path / "x" / "train")
    (tmp_path / "x" / split).mkdir()
    for name in files:
        save(tmp_path / "x" / split / "0.png", 0)
        (tmp_path / "x" / split / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / split / "0.png").rename(tmp_path / "x" / split / name)
    message = message.replace("test/", f"{split}/")
    with pytest.raises(DataError, match=f"x/{split}: {message}") as error:
        make(build, tmp_path / "x")
    assert f"data.root={tmp_path / 'x' / 'train'}" in str(error.value)
    assert len(make(build, tmp_path / "x" / "train").test) == 2


def test_a_class_of_a_split_without_images_is_named(build, folder, tmp_path):
    for name in ("train", "test"):
        shutil.copytree(folder, tmp_path / "x" / name)
    for path in (tmp_path / "x" / "test" / "ant").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"test/ant: has no image, only 10 \.heic"):
        make(build, tmp_path / "x")


def test_ignored_files_are_counted_once(build, folder):
    save(folder / "cat" / "more" / "1.png", 0)
    save(folder / "1.png", 0)
    for name in ("cat/a.heic", "cat/b.HEIC", "ant/c.avif", "ant/LICENSE", ".x", "cat/.y.png"):
        (folder / name).touch()
    (folder / "cat" / "folder.png").mkdir()
    data = make(build, folder, validation=0, test=0)
    assert len(data.train) == 20
    (warning,) = build.warnings
    for part in ("6 files are ignored", "2 .heic files", "1 .avif files", "1 files without a"):
        assert part in warning
    assert f"1 images directly in {folder}" in warning
    assert f"1 images in {folder / 'cat' / 'more'}" in warning
    assert ".webp" in warning


def test_folders_next_to_the_splits_are_counted(build, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "x" / "train")
    shutil.copytree(folder, tmp_path / "x" / "unlabelled")
    assert make(build, tmp_path / "x").spec.class_counts
    assert "20 files are ignored: 20 images in" in build.warnings[0]
    assert "SPLIT/CLASS/IMAGE" in build.warnings[0]
