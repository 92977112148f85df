"""Seconds as the device counts them: a GPU works on after Python has gone ahead."""

import time

import torch


class Stopwatch:
    """Runs from when it is made; `lap()` gives the seconds since the last lap, all work on the device done."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)
        self.lap()

    def lap(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.last = getattr(self, "last", 0.0), time.perf_counter()
        return self.last - before
