"""Hugging Face's Trainer, without its progress bar, logs, checkpoints and clipping."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench import data, networks, pictures
from bench.work import Clock, Work


class WithLoss(nn.Module):
    """A network that computes its own loss, as the Trainer wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss, and the outputs."""
        outputs = self.model(inputs)
        return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}


class Laps(TrainerCallback):
    """Tells the clock of each epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """The Trainer's name for it."""
        self.clock.lap()


class Numbers(Dataset):
    """A sample's number, for a collator that gathers a whole batch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        """Number of samples."""
        return self.length

    def __getitem__(self, index: int) -> int:
        """The number itself."""
        return index


def train(work: Work, clock: Clock) -> float:
    """Trains; the accuracy on the test split."""
    clock.watch_torch()
    if work.pipeline == "tensors":
        images, labels = pictures.tensors(work.root, train=True)
        dataset = Numbers(len(labels))

        def collate(index: Sequence[int]) -> dict[str, Tensor]:
            return {"inputs": images[index], "labels": labels[index]}
    else:
        dataset = pictures.dataset(work.root, train=True)

        def collate(samples: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
            inputs, classes = zip(*samples, strict=True)
            return {"inputs": torch.stack(inputs), "labels": torch.tensor(classes)}

    model = networks.build(work)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=work.epochs,
            per_device_train_batch_size=work.batch_size,
            learning_rate=networks.LEARNING_RATE,
            weight_decay=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            optim="adamw_torch",
            use_cpu=work.device == "cpu",
            dataloader_pin_memory=work.device != "cpu",
            remove_unused_columns=False,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        Trainer(
            WithLoss(model),
            arguments,
            data_collator=collate,
            train_dataset=dataset,
            callbacks=[Laps(clock)],
        ).train()
    return data.accuracy(work, model.eval())
