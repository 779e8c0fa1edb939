"""PyTorch files of our networks: one that trains, one that predicts, and what to know of both.

``NAME.safetensors`` holds the weights under their structural names and, for this project, the
graph. ``NAME.pt2`` is the network as ``torch.export`` writes it, in prediction mode, which
PyTorch alone runs.
"""
import io

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.files import write_bytes, write_text
from graph.graph import load, save
from graph.pytorch import to_pytorch

from .packages import first_line

__all__ = ["check_training", "make_program", "runners", "writers"]

# The check of training: on so many images, at this rate.
_IMAGES, _STEPS, _RATE = 128, 5, 0.01


def make_program(graph, arrays):
    """A graph as a program of PyTorch's, in prediction mode.

    Parameters
    ----------
    graph : graph.graph.Graph
        Of one input, for images (3, H, W).
    arrays : dict of str to numpy.ndarray

    Returns
    -------
    program : torch.export.ExportedProgram
        For any number of images.
    sizes : str
        (H, W), or what else fits, too.

    Raises
    ------
    UserError
        If torch.export cannot write it.
    """
    module = to_pytorch(graph, arrays=arrays).eval()
    (_, height, width), = (node.shape()[1:] for node in graph.nodes if node.op == "input")
    auto = torch.export.Dim.AUTO
    for sizes, free in (("of this and other sizes", {2: auto, 3: auto}),
                        ("of this size only", {})):
        try:
            program = torch.export.export(
                module, (torch.zeros(2, 3, height, width),),
                dynamic_shapes=({0: torch.export.Dim("images"), **free},))
        except Exception as error:  # torch.export's errors have no type in common
            problem = first_line(error)
            continue
        if not free or _takes(program, height + 1, width + 2):
            return program, sizes
    raise UserError(f"torch.export cannot write this network: {problem}")


def _takes(program, height, width):
    """Whether a program is for images of that size; one that needs another size says so."""
    try:
        program.module()(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError):
        return False
    return True


def writers(graph, arrays, description, outputs):
    """How to write each of the three files, atomically.

    Parameters
    ----------
    graph, arrays
        As `make_program` takes them.
    description : dict
        Of the network, with its data set.
    outputs : list of pathlib.Path
        .safetensors, .pt2 and the text.

    Returns
    -------
    list of callable
        Without arguments.
    """
    weights, program_path, text_path = outputs
    (program, sizes), content = make_program(graph, arrays), io.BytesIO()
    torch.export.save(program, content)
    lines = _readme(graph, sizes, description, weights.name, program_path.name)
    return [lambda: save(weights, graph, arrays),
            lambda: write_bytes(program_path, content.getbuffer()),
            lambda: write_text(text_path, "\n".join(lines) + "\n")]


def _readme(graph, sizes, description, weights, program):
    source = description["dataset"]
    names = source.get("class_names") or ["not known"]
    shape, = (node.shape()[1:] for node in graph.nodes if node.op == "input")
    normalisation = ("(pixels / 255 - mean) / deviation of R, G, B, with the mean "
                     f"{source['mean']} and the deviation {source['std']}"
                     if "mean" in source else "as in training; mean and deviation are not known")
    return [
        f"{program} predicts, with PyTorch (written by {torch.__version__}) alone: logits = "
        f"torch.export.load('{program}').module()(images)",
        f"{weights} has the weights: safetensors.torch.load_file('{weights}'); to train, in a "
        "copy of the project: graph.pytorch.to_pytorch(graph, arrays=arrays) of graph, arrays = "
        f"graph.graph.load('{weights}')",
        f"Images: {('N', *shape)} float32, RGB, {sizes}; logits: ('N', {source['outputs']})"
        .replace("'", ""),
        f"Normalisation: {normalisation}",
        f"Classes, in the order of the logits: {', '.join(names)}"]


# ---- checking ----------------------------------------------------------------------------------

def runners(outputs):
    """(name, True, (N, 3, H, W) -> logits) for both files, as they are on the disk."""
    graph, arrays = load(outputs[0])
    modules = {"PyTorch .pt2": torch.export.load(outputs[1]).module(),
               "PyTorch .safetensors": to_pytorch(graph, arrays=arrays).eval()}
    for name, module in modules.items():
        yield name, True, _runner(module)


def _runner(module):
    def run(batch):
        with torch.no_grad():
            return module(torch.from_numpy(batch)).numpy()
    return run


def check_training(path, images, labels):
    """Train the network of a .safetensors file on one batch; returns the losses.

    Parameters
    ----------
    path : pathlib.Path
    images, labels : numpy.ndarray
        (N, 3, H, W) float32, normalised, and (N,) int.

    Raises
    ------
    UserError
        If a loss is not finite, or the last one is not less than the first.
    """
    graph, arrays = load(path)
    module = to_pytorch(graph, arrays=arrays)
    optimizer = torch.optim.SGD(module.parameters(), _RATE)
    x, y = torch.from_numpy(images[:_IMAGES]), torch.from_numpy(labels[:_IMAGES]).long()
    torch.manual_seed(0)
    losses = []
    for _ in range(_STEPS):
        loss = F.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not (np.isfinite(losses).all() and losses[-1] < losses[0]):
        raise UserError(f"{path} does not train: its losses are {losses}")
    return losses
