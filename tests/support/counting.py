"""A step of one number, which can be brought back."""

from __future__ import annotations

import torch


class Counter:
    """A step of one number, which can be brought back."""

    def __init__(self):
        self.value, self.python = torch.zeros(1), 0

    def save(self):
        return Number(self.value.clone(), self.python)

    def restore(self, saved):
        self.value.copy_(saved.value)
        self.python = saved.python

    def mark(self):
        return self.python

    def back(self, mark):
        self.python = mark

    def piece(self):
        self.python += 1
        self.value.add_(1)


class Number:
    def __init__(self, value, python):
        self.value, self.python = value, python

    def differs(self, other):
        return "" if torch.equal(self.value, other.value) else "value"
