"""The networks in plain torch, with torch's default initialization."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench import sst2
from bench.workloads import Workload

LEARNING_RATE = 1e-3


def build(workload: Workload) -> nn.Module:
    """Return the network of a workload, on its device."""
    torch.manual_seed(0)
    if workload.config == "sst2_lstm":
        model = SentenceLstm(sst2.read(workload.root).vocabulary_size)
    else:
        model = nn.Sequential(*LAYERS[workload.config]())
    return model.to(workload.device)


LAYERS = {
    "mnist_mlp": lambda: (nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
    "mnist_cnn": lambda: (
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(1600, 10)),
    ),
}


class SentenceLstm(nn.Module):
    """Network of configs/sst2_lstm.yaml, with packed sequences."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 100, padding_idx=sst2.PADDING)
        self.lstm = nn.LSTM(100, 128, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(256, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids of shape (batch, tokens), int64, to logits of shape (batch, 2)."""
        lengths = (tokens != sst2.PADDING).sum(dim=1)
        features = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(
            features, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        mean = outputs.sum(dim=1) / lengths[:, None]  # outputs are padded with zeros
        return self.head(self.dropout(mean))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that all frameworks share."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
