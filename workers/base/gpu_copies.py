"""Copies to a GPU that go on while it computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sent:
    """A tensor on its way to a GPU: a handle, as `workers.embedding.overlap` takes them."""

    tensor: Tensor
    arrived: torch.cuda.Event

    def result(self) -> Tensor:
        """The tensor there, for what the current stream is given from now on; waits for nothing."""
        compute = torch.cuda.current_stream(self.tensor.device)
        compute.wait_event(self.arrived)
        self.tensor.record_stream(compute)  # its memory is not given away while it is read there
        return self.tensor

    def cancel(self) -> None:
        """Nothing: what a GPU was given, it does."""


class Sender:
    """Copies pinned memory to a GPU in a stream of its own.

    PyTorch keeps pinned memory and gives it out again when its copy has ended: two or three buffers
    in turn, without any book-keeping by whoever fills them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def send(self, pinned: Tensor) -> Sent:
        with torch.cuda.stream(self._stream):
            tensor = pinned.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return Sent(tensor, arrived)
