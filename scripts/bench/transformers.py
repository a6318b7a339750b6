"""Hugging Face's Trainer without its progress bar, logs, checkpoints and clipping."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench import data, mnist, networks
from bench.workloads import Timer, Workload


class ModelWithLoss(nn.Module):
    """Network that computes its own loss, as the Trainer requires."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and the logits."""
        outputs = self.model(inputs)
        return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}


class EpochTimer(TrainerCallback):
    """Callback that ends the epoch of a timer."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """End the epoch."""
        self.timer.end_epoch()


class Indices(Dataset):
    """Data set of sample indices, for a collator that gathers a whole batch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.length

    def __getitem__(self, index: int) -> int:
        """Return the index."""
        return index


def train(workload: Workload, timer: Timer) -> float:
    """Train the network and return the accuracy on the test split."""
    timer.hook_optimizers()
    if workload.pipeline == "tensors":
        images, labels = mnist.tensors(workload.root, train=True)
        dataset = Indices(len(labels))

        def collate(index: Sequence[int]) -> dict[str, Tensor]:
            return {"inputs": images[index], "labels": labels[index]}
    else:
        dataset = mnist.dataset(workload.root, train=True)

        def collate(samples: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
            inputs, classes = zip(*samples, strict=True)
            return {"inputs": torch.stack(inputs), "labels": torch.tensor(classes)}

    model = networks.build(workload)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=workload.epochs,
            per_device_train_batch_size=workload.batch_size,
            learning_rate=networks.LEARNING_RATE,
            weight_decay=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            optim="adamw_torch",
            use_cpu=workload.device == "cpu",
            dataloader_pin_memory=workload.device != "cpu",
            remove_unused_columns=False,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
        )
        Trainer(
            ModelWithLoss(model),
            arguments,
            data_collator=collate,
            train_dataset=dataset,
            callbacks=[EpochTimer(timer)],
        ).train()
    return data.accuracy(workload, model.eval())
