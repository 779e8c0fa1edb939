"""What is measured, by name. Read by every contestant, in whichever environment it runs."""
from dataclasses import dataclass

__all__ = ["Workload", "WORKLOADS", "GROUPS", "for_each"]


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Parameters
    ----------
    kind : {'pipeline', 'step', 'inference', 'data'}
        Training from the files on; the training step alone on fixed data; prediction; the
        training batches alone.
    activation : str
    blocks : int
        Of the paper's CIFAR network; 0 is ResNet-50 v1b with 224 pixels a side.
    batch_size : int
    steps : int
        Batches in a round.
    beside : bool
        Whether it is measured twice: alone, and beside a process that keeps a core busy.
    """

    kind: str
    activation: str = "ChaATAC"
    blocks: int = 1
    batch_size: int = 128
    steps: int = 10
    beside: bool = False

    @property
    def image_size(self):
        return 32 if self.blocks else 224

    @property
    def classes(self):
        return 10 if self.blocks else 1000


_CIFAR = [(activation, blocks) for blocks in (1, 3) for activation in ("relu", "ChaATAC")]

# Group -> name -> workload; a group is what `--only` names.
GROUPS = {
    "pipeline": {f"pipeline {act} b={b}": Workload("pipeline", act, b, steps=30 // b)
                 for act, b in _CIFAR},
    "step": {f"step {act} b={b}": Workload("step", act, b) for act, b in _CIFAR},
    "resnet50": {"step ChaATAC ResNet-50": Workload("step", "ChaATAC", 0, 16, 2)},
    "inference": {
        **{f"inference ChaATAC {net} batch {n}": Workload("inference", "ChaATAC", b, n, steps)
           for net, b, n, steps in (("b=3", 3, 1, 100), ("b=3", 3, 128, 8),
                                    ("ResNet-50", 0, 1, 10), ("ResNet-50", 0, 128, 1))}},
    "beside": {
        "training ChaATAC b=1": Workload("step", "ChaATAC", 1, 128, 5, beside=True),
        "prediction ChaATAC b=1": Workload("inference", "ChaATAC", 1, 128, 10, beside=True)},
    "data": {"data": Workload("data", batch_size=128, steps=100)},
}
WORKLOADS = {name: workload for group in GROUPS.values() for name, workload in group.items()}


def for_each(batches, use, wait=None):
    """A function that works through one round: uses each batch, and waits for the end of it all."""
    def run():
        for batch in batches:
            use(*batch)
        if wait:
            wait()
    return run
