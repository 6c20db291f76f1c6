"""Whether this process can still fork trainings."""

import os

import torch


def can_fork() -> bool:
    """Whether forked processes can train: autograd refuses where a backward pass before has started its threads."""
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, requires_grad=True).sum().backward()
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
