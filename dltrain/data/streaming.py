"""Data that does not fit in memory: samples are read while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dltrain.core.batch import FULL_BATCH, Batch, RankSlice
from dltrain.data.cache import MemoryCache
from dltrain.data.in_memory import Transform, to_device
from dltrain.data.seeding import epoch_order
from dltrain.data.worker_reader import ReadSample, WorkerReader


class Streaming:
    """A split whose samples are read on demand; see `dltrain.core.protocols.Split`.

    The batches do not depend on the number of workers.
    """

    def __init__(
        self,
        read: ReadSample,
        targets: Tensor,
        *,
        names: Sequence[object],
        sample_bytes: int,
        seed: int,
        workers: int,
        timeout: float,
        transform: Transform | None = None,
        cache: MemoryCache | None = None,
    ) -> None:
        """Args:
        read: Function that reads one sample.
        targets: (samples,) int64 or (samples, values) float, on the device.
        names: Name of each sample in error messages, such as its file.
        sample_bytes: Size of a sample in bytes, to check the room in shared memory.
        seed: Seed of each epoch's sample order.
        workers: Number of processes that read samples; 0 reads in the training process.
        timeout: Maximum time in seconds that the workers may take for a batch.
        transform: Function from a batch of samples to inputs, on the device.
        cache: Storage of read samples; a batch that is complete there is not read again.
        """
        self.read = read
        self.targets = targets
        self.names = names
        self.sample_bytes = sample_bytes
        self.seed = seed
        self.workers = workers
        self.timeout = timeout
        self.transform = transform
        self.cache = cache

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def batches(
        self,
        batch_size: int,
        *,
        epoch: int | None = None,
        offset: int = 0,
        rank_slice: RankSlice = FULL_BATCH,
    ) -> Iterator[Batch]:
        """See `Split.batches`; the workers end when the iteration ends for any reason.

        Raises:
            DataError: A sample can't be read, its worker died or did not respond, or shared memory
                is too small for the workers.
        """
        total, device = len(self), self.targets.device
        order = torch.arange(total) if epoch is None else epoch_order(total, self.seed, epoch)
        whole = order.split(batch_size)
        shards = [samples[rank_slice.bounds(len(samples))] for samples in whole]
        on_device = to_device(order, device).split(batch_size)
        unread = [n for n in range(offset, len(shards)) if self._needs_reading(shards[n])]
        copy = _copier(device)
        reader = WorkerReader(
            self.read,
            self.names,
            [shards[number] for number in unread],
            sample_bytes=self.sample_bytes,
            workers=self.workers,
            timeout=self.timeout,
            pin_memory=device.type == "cuda",
            ignore_signals=rank_slice.world_size > 1,
        )
        to_read = set(unread)
        try:
            for number in range(offset, len(shards)):
                index = on_device[number][rank_slice.bounds(len(whole[number]))]
                if number in to_read:
                    inputs = copy(reader.next_batch())
                    if self.cache is not None:
                        self.cache.store(shards[number], inputs)
                else:
                    assert self.cache is not None
                    inputs = self.cache.take(index)
                if self.transform is not None:
                    inputs = self.transform(inputs, index, epoch)
                targets = self.targets.index_select(0, index)
                yield rank_slice.make_batch(inputs, targets, index, len(whole[number]))
        finally:
            reader.close()

    def _needs_reading(self, index: Tensor) -> bool:
        return self.cache is None or self.cache.misses(index)


def _copier(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that copies to the device; on a GPU in a stream beside the computation."""
    if device.type != "cuda":
        return lambda tensor: tensor.to(device)
    copy_stream = torch.cuda.Stream(device)

    def copy(tensor: Tensor) -> Tensor:
        with torch.cuda.stream(copy_stream):
            copied = tensor.to(device, non_blocking=True)
        compute_stream = torch.cuda.current_stream(device)
        compute_stream.wait_stream(copy_stream)
        copied.record_stream(compute_stream)  # keeps its memory until the computation is done
        return copied

    return copy
