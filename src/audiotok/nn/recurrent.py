"""Recurrent layers over time that carry their state from piece to piece."""

import torch
from torch import Tensor, nn

from .conv import Layer
from .flow import Flow, Ragged


class LSTM(Layer):
    """LSTM layers with a shortcut around all of them, of x [B, T, C].

    Args:
        channels: C.
        layers: how many.
        bidirectional: twice C comes out, the shortcut twice side by side; the whole signal is waited for.
    """

    def __init__(self, channels: int, layers: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional, batch_first=True)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        if not self.lstm.bidirectional:
            if not x.shape[1]:
                return x
            y: Tensor
            y, state = self.lstm(x, flow.recall(self, None))
            flow.keep(self, state)
            return y.add_(x)
        x = flow.whole(self, x)
        doubled = torch.cat([x, x], 2)
        return doubled.add_(self._both_ways(x, flow)) if x.shape[1] else doubled

    def _both_ways(self, x: Tensor, flow: Flow) -> Tensor:
        y: Tensor
        if not isinstance(flow, Ragged):
            y, _ = self.lstm(x)
            return y
        packed = nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(flow.lengths), batch_first=True, enforce_sorted=False
        )
        found, _ = self.lstm(packed)
        y, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
        return y
