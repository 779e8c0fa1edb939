"""Damage exported ONNX files in hundreds of ways and open each as `evaluate.py --onnx` does.

    python -m tests.torture.fuzz_onnx --count 500 --seed 0

A process of its own opens the files, and is watched: it must answer with the classes of the
network or with one clear line, in bounded time and memory. Each file is tried by a grandchild,
`exporting.probe`; where the runtime crashes there, that is counted, and refused in one line as
everything else.
"""
import argparse
import collections
import json
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.torture.fuzzing import (
    Opener,
    cut_out,
    flip_bits,
    noise,
    put_in,
    repeat_a_part,
    truncate,
)

HANG_SECONDS = 150
_EXTREMES = (0, 1, -1, 2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 40, 2 ** 62, -2 ** 63)


# ---- mutations of the bytes: each maps (generator, content) to new content ---------------------

def flip_bits_of_the_nodes(rng, content):
    """The nodes come first in the file."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        out[int(rng.integers(0, min(4000, len(out))))] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


# ---- mutations of the model: each changes it in place ------------------------------------------

def _pick(rng, items):
    return items[int(rng.integers(0, len(items)))]


def external_data(rng, model):
    tensor = _pick(rng, model.graph.initializer)
    tensor.data_location = 1
    tensor.ClearField("raw_data")
    place = str(rng.choice(("/etc/passwd", "../../../etc/passwd", "weights.bin")))
    tensor.external_data.add(key="location", value=place)


def strange_weight_shape(rng, model):
    tensor = _pick(rng, model.graph.initializer)
    tensor.dims[:] = [int(rng.choice(_EXTREMES)) for _ in range(int(rng.integers(0, 6)))]


def regrouped_weight_shape(rng, model):
    tensor = _pick(rng, model.graph.initializer)
    tensor.dims[:] = [int(size) for size in rng.permutation(list(tensor.dims) or [1])][::-1]


def other_weight_type(rng, model):
    _pick(rng, model.graph.initializer).data_type = int(rng.integers(-1, 30))


def short_weight(rng, model):
    tensor = _pick(rng, model.graph.initializer)
    tensor.raw_data = tensor.raw_data[:int(rng.integers(0, len(tensor.raw_data) + 1))]


def missing_weight(rng, model):
    del model.graph.initializer[int(rng.integers(0, len(model.graph.initializer)))]


def strange_values(rng, model):
    """Weights that are not finite, or constants that are huge."""
    tensor = _pick(rng, model.graph.initializer)
    tensor.raw_data = bytes([int(rng.choice((0, 127, 255)))]) * len(tensor.raw_data)


def strange_input(rng, model):
    shape = model.graph.input[0].type.tensor_type.shape
    _pick(rng, shape.dim).dim_value = int(rng.choice(_EXTREMES))
    model.graph.input[0].type.tensor_type.elem_type = int(rng.choice((1, 1, 1, 2, 7, 8, 11)))


def strange_attribute(rng, model):
    node = _pick(rng, [node for node in model.graph.node if len(node.attribute)])
    attribute = _pick(rng, node.attribute)
    if len(attribute.ints):
        attribute.ints[int(rng.integers(0, len(attribute.ints)))] = int(rng.choice(_EXTREMES))
    else:
        attribute.i = int(rng.choice(_EXTREMES))


def other_operator(rng, model):
    _pick(rng, model.graph.node).op_type = str(rng.choice((
        "Loop", "If", "Scan", "MatMul", "Conv", "Gather", "Expand", "Tile", "NonZero", "Einsum",
        "ConvTranspose", "Resize", "Pad", "Unknown", "")))


def other_domain(rng, model):
    domain = str(rng.choice(("com.microsoft", "ai.onnx.ml", "evil")))
    _pick(rng, model.graph.node).domain = domain
    if rng.random() < 0.5:
        model.opset_import.add(domain=domain, version=1)


def other_opset(rng, model):
    model.opset_import[0].version = int(rng.choice((-1, 0, 1, 6, 12, 18, 22, 25, 2 ** 40)))


def swapped_inputs(rng, model):
    """A cycle, or nodes that read what does not fit."""
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = _pick(rng, [node for node in model.graph.node if len(node.input)])
    node.input[int(rng.integers(0, len(node.input)))] = _pick(rng, names)


def huge_tensor(rng, model):
    """A spread of the input to a shape that no memory holds."""
    import onnx

    size = int(rng.choice((2 ** 20, 2 ** 31, 2 ** 40)))
    model.graph.initializer.append(onnx.numpy_helper.from_array(
        np.array([size, 1, 1, size], np.int64), "huge"))
    first = model.graph.node[0]
    first.input[0] = "spread"
    model.graph.node.insert(0, onnx.helper.make_node("Expand", ["images", "huge"], ["spread"]))


def missing_node(rng, model):
    del model.graph.node[int(rng.integers(0, len(model.graph.node)))]


def repeated_node(rng, model):
    model.graph.node.append(_pick(rng, model.graph.node))


def no_output(rng, model):
    if rng.random() < 0.5:
        del model.graph.output[:]
    else:
        model.graph.output[0].name = str(rng.choice(("", "images", "nowhere")))


def inner_output(rng, model):
    model.graph.output[0].name = _pick(rng, model.graph.node).output[0]


def sparse_weight(rng, model):
    model.graph.sparse_initializer.add()


def strange_metadata(rng, model):
    model.metadata_props[0].value = str(rng.choice((
        "", "{", "[]", "[" * 100_000, '{"model": 3}',
        '{"model": "x", "options": {}, "dataset": 1}')))


OF_BYTES = (truncate, flip_bits, flip_bits_of_the_nodes, cut_out, put_in, repeat_a_part, noise)
OF_MODELS = (external_data, strange_weight_shape, regrouped_weight_shape, other_weight_type,
             short_weight, missing_weight, strange_values, strange_input, strange_attribute,
             other_operator, other_domain, other_opset, swapped_inputs, huge_tensor, missing_node,
             repeated_node, no_output, inner_output, sparse_weight, strange_metadata)
MUTATIONS = OF_BYTES + OF_MODELS


def _mutated(rng, mutate, content):
    if mutate in OF_BYTES:
        return mutate(rng, content)
    import onnx

    model = onnx.load_model_from_string(content)
    mutate(rng, model)
    return model.SerializeToString()


def originals():
    """Exported files: a small network, and one with attention."""
    from exporting.onnx_file import make_model
    from tests.random_networks import random_network

    for options in ({"model": "resnet_v2_cifar", "options": {"blocks": 1,
                                                             "activation": "ChaATAC"}},
                    {"model": "resnet18", "options": {"width": 0.0625, "attention": "CBAM"}}):
        description = {**options, "dataset": {"name": "cifar10"}}
        yield make_model(random_network(description), 16, description, "0" * 64
                         ).SerializeToString()


# ---- the process that opens --------------------------------------------------------------------

def _serve():
    from common.errors import UserError
    from exporting.opening import open_file

    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    for request in sys.stdin:
        try:
            answer = {"outputs": open_file(request.rstrip("\n")).outputs}
        except UserError as error:
            answer = {"line": str(error)}
        print(json.dumps(answer), flush=True)


def _verdict(answer):
    """One word for what opening a file came to, and whether that is as it must be."""
    if answer is None:
        return "crashed or hung", False
    if "outputs" in answer:
        return "loaded", True
    if "\n" in answer["line"] or len(answer["line"]) > 1000 or not answer["line"].isprintable():
        return "unclear line", False
    if " crashed (" in answer["line"]:
        return "refused after a crash of the child process", True
    return "refused", True


def fuzz(count, seed=0, log=print):
    """Try `count` mutations.

    Returns
    -------
    (collections.Counter, int)
        How many files came to what, and how many of them were not as they must be.
    """
    rng, files = np.random.default_rng(seed), list(originals())
    counts, bad = collections.Counter(), 0
    opener = Opener("tests.torture.fuzz_onnx", HANG_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.onnx")
        for number in range(count):
            mutate = MUTATIONS[number % len(MUTATIONS)]
            path.write_bytes(_mutated(rng, mutate, _pick(rng, files)))
            answer = opener(path)
            verdict, good = _verdict(answer)
            counts[verdict] += 1
            if not good:
                bad += 1
                log(f"mutation {number} ({mutate.__name__}, seed {seed}): {verdict}: {answer}")
    opener.close()
    log(f"{count:,} mutations of {len(files)} files: "
        + ", ".join(f"{number:,} {verdict}" for verdict, number in counts.most_common()))
    return counts, bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="mutations (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
        return 0
    return 1 if fuzz(options.count, options.seed)[1] else 0


if __name__ == "__main__":
    sys.exit(main())
