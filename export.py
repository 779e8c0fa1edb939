#!/usr/bin/env python3
"""Write a trained network as an ONNX file, or as MXNet's symbol and parameters.

    python export.py --params params/demo/best.params
    python export.py --params params/demo/best.params --int8 --check
    python export.py --params params/demo/best.params --format mxnet --output net
"""
import os
import sys
from pathlib import Path

from common.arguments import Parser, positive_int
from common.errors import UserError, run_script
from common.files import check_not_input, home_path, replacing, sha256
from common.threads import set_threads
from data import DataError, list_datasets
from evaluate import find_params, open_data
from runs.description import count_outputs, load_network
from runs.options import (
    add_cifar_network_options,
    add_described_data_options,
    add_image_options,
    add_v1b_options,
)

_CALIBRATION_BATCH = 64


def make_parser():
    parser = Parser(prog="export.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--params", metavar="FILE.params",
        help="file to export; the JSON beside it describes its network and data")
    add("--pretrained", metavar="NAME", help="export released parameters, in place of --params")
    add("--output", metavar="FILE",
        help="file to write; for --format mxnet the beginning of two names (default: --params "
             "with the ending .onnx, or without one)")
    add("--format", choices=("onnx", "mxnet"), default="onnx",
        help="onnx, or mxnet: FILE-symbol.json and FILE-0000.params for SymbolBlock.imports")
    add("--opset", type=int, choices=range(13, 18), default=13, metavar="13..17",
        help="version of ONNX's operators; 13 is known to most runtimes")
    add("--with-normalisation", action="store_true",
        help="take uint8 pixels, 0 to 255, and normalise inside the file (default: take "
             "normalised float32)")
    add("--int8", action="store_true",
        help="also write FILE.int8.onnx, calibrated with training images")
    add("--calibration-images", type=positive_int, default=512, metavar="N",
        help="how many of them, spread over the training set")
    add("--check", action="store_true",
        help="compare MXNet and all installed runtimes on test images, and measure their speed")
    add("--limit-test", type=positive_int, default=1000, metavar="N",
        help="how many test images --check takes, from the first on")
    add("--outputs", "--classes", type=positive_int, metavar="N",
        help="number of the network's outputs (default: as described)")
    add("--overwrite", action="store_true", help="replace files that exist")
    network = add_cifar_network_options(parser, model=None)
    network.description = "Only for a file without such a JSON."
    add_v1b_options(network)
    add_described_data_options(parser, list_datasets(),
                               "For --int8, --check, and files without a JSON.")
    add_image_options(parser, train=False)
    parser.set_defaults(batch_size=128, crops=1)
    return parser


def main(argv=None):
    options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    check_options(options)
    set_threads()
    description = find_params(options)
    outputs = find_outputs(options)
    if options.format == "onnx":
        require_packages(options)
    data = open_data(options, description) if options.check or options.int8 else None
    complete(description, options, data)

    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    net = load_network(options.params, description, options.outputs, [mx.cpu()])
    size = image_size(options, description)
    if data is not None and data[0].image_size != size:
        raise UserError(f"the file would be for images of {size} pixels, the test images have "
                        f"{data[0].image_size}: leave out --check and --int8")
    if options.format == "mxnet":
        write_mxnet(net, outputs, size)
        return 0
    models = make_models(options, net, description, size, data)
    write_onnx(models, outputs)
    if options.check:
        check(options, net, description, models, data)
    return 0


# ---- what is asked for -------------------------------------------------------------------------

def check_options(options):
    """Raise UserError for options that do not go together."""
    if bool(options.params) == bool(options.pretrained):
        raise UserError("say what to export: either --params FILE or --pretrained NAME")
    if options.format == "mxnet":
        for flag in ("with_normalisation", "int8", "check"):
            if getattr(options, flag):
                raise UserError(f"--{flag.replace('_', '-')} is for --format onnx")


def require_packages(options):
    """Ask for ONNX before anything else is done, and for the runtime if it is needed."""
    from exporting.packages import require

    require("onnx")
    if options.int8 or options.check:
        require("onnxruntime")


def find_outputs(options):
    """The files to write; raises UserError if one is in the way."""
    base = home_path(options.output or Path(options.params).with_suffix(
        ".onnx" if options.format == "onnx" else ""), "--output")
    if os.path.isdir(base):
        raise UserError(f"{base} is a folder; name a file with --output")
    if options.format == "mxnet":
        outputs = [base.with_name(f"{base.name}-symbol.json"),
                   base.with_name(f"{base.name}-0000.params")]
    else:
        outputs = [base, base.with_name(f"{base.stem}.int8{base.suffix}")][:1 + options.int8]
    for path in outputs:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; name a file with --output")
        check_not_input(path, *inputs(options))
        if os.path.lexists(path) and not options.overwrite:
            raise UserError(f"{path} exists; give --overwrite to replace it")
    return outputs


def inputs(options):
    """The files that are read, the parameters' description among them."""
    return [path for path in (options.params, Path(options.params).with_suffix(".json"),
                              options.rec_val, options.rec_val_idx) if path]


def complete(description, options, data):
    """Add what the options and the data say to a description; set the number of outputs."""
    described = description.setdefault("dataset", {})
    described["name"] = options.dataset or described.get("name")
    if (data is None and "mean" not in described and described["name"] in list_datasets()
            and (options.with_normalisation or not options.outputs)):
        data = open_data(options, description)
    if data is not None and "mean" not in described:
        described.update(classes=data[0].classes, outputs=data[0].outputs,
                         class_names=list(data[0].class_names), mean=list(data[0].mean),
                         std=list(data[0].std), image_size=data[0].image_size)
    options.outputs = options.outputs or count_outputs(description)
    if not options.outputs:
        raise UserError(f"nothing says how many outputs the network of {options.params} has: give "
                        "--outputs")
    described["outputs"] = options.outputs
    if options.with_normalisation and "mean" not in described:
        raise UserError("--with-normalisation needs mean and standard deviation of the data set, "
                        f"which {options.params} has no description of")


def image_size(options, description):
    """The side of the images that the file is for."""
    described = description["dataset"].get("image_size")
    default = 32 if description["dataset"]["name"] in list_datasets() else 224
    return options.input_size or (described if isinstance(described, int) else default)


# ---- writing -----------------------------------------------------------------------------------

def make_models(options, net, description, size, data):
    """The ONNX models to write, in float32 and, if asked for, in 8 bits."""
    from exporting.onnx_file import make_model
    from graph.onnx import Unexportable

    source = description["dataset"]
    try:
        model = make_model(net, size, description, sha256(options.params), options.opset,
                           (source["mean"], source["std"]) if options.with_normalisation else None)
    except Unexportable as error:
        raise UserError(f"{description['model']} cannot be exported: {error}") from None
    models = [model]
    if options.int8:
        from exporting.quantisation import quantise

        models.append(quantise(model, calibration_batches(options, description, data[0])))
    return models


def calibration_batches(options, description, dataset):
    """Batches of training images, spread over the training set, as the file takes them."""
    import numpy as np

    if not hasattr(dataset, "train"):
        raise UserError("--int8 calibrates with the training images of a data set that is held in "
                        f"memory ({', '.join(list_datasets())})")
    count = min(options.calibration_images, len(dataset.train))
    chosen = np.linspace(0, len(dataset.train) - 1, count).astype(int)
    for start in range(0, count, _CALIBRATION_BATCH):
        images = dataset.train.images[chosen[start:start + _CALIBRATION_BATCH]]
        yield images if options.with_normalisation else normalised(images, description)


def normalised(images, description):
    """(N, 3, H, W) uint8 -> float32, as the network was trained with."""
    import mxnet as mx

    from engines.gluon import Normalize

    source = description["dataset"]
    return Normalize(source["mean"], source["std"])(images, mx.cpu()).asnumpy()


def write_onnx(models, outputs):
    """Write the models and say what they are."""
    from exporting.onnx_file import write_model

    for model, path in zip(models, outputs):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_model(model, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        print(f"{path}: {path.stat().st_size:,} bytes, ONNX opset "
              f"{model.opset_import[0].version}, {len(model.graph.node)} nodes")
        if model is models[0]:
            print(f"  input  {shown(model.graph.input[0])}")
            print(f"  output {shown(model.graph.output[0])}")


def shown(value):
    """Name, shape and type of an input or output."""
    tensor = value.type.tensor_type
    sizes = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    kind = "uint8, 0 to 255" if value.name == "pixels" else "float32"
    return f"{value.name} ({sizes}) {kind}" + (", normalised" if value.name == "images" else "")


def write_mxnet(net, outputs, size):
    """Write MXNet's own two files and say what they are."""
    from mxnet import nd

    from graph.graph import read_arrays, trace

    graph, params = trace(net, (3, size, size)), read_arrays(net)
    symbol = graph.to_symbol({"data": "images"})
    arrays = {f"{'aux' if node.op == 'state' else 'arg'}:{name}": nd.array(params[name])
              for name, node in graph.variables.items()}
    try:
        outputs[0].parent.mkdir(parents=True, exist_ok=True)
        with replacing(outputs[1]) as temporary:
            nd.save(str(temporary), arrays)
        with replacing(outputs[0]) as temporary:
            temporary.write_text(symbol.tojson(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {outputs[0]}: {error.strerror}") from None
    for path in outputs:
        print(f"{path}: {path.stat().st_size:,} bytes")
    print(f"  load: mxnet.gluon.SymbolBlock.imports('{outputs[0]}', ['images'], '{outputs[1]}')\n"
          f"  input  images (batch, 3, {size}, {size}) float32, normalised")


# ---- checking ----------------------------------------------------------------------------------

def check(options, net, description, models, data):
    """Compare the runtimes on test images; raises UserError where one has to agree and does not."""
    from exporting.comparison import compare, table, warning

    images, labels = test_images(data[1], options.limit_test)
    inputs = normalised(images, description)
    candidates = [("MXNet float32", True, mxnet_runner(net, inputs.shape), inputs)]
    for name, exact, run in onnx_runners(models):
        candidates.append((name, exact, run, images if options.with_normalisation else inputs))
    print(f"{len(images):,} test images of {data[0].title}; threads: {set_threads()}")
    rows = compare(candidates, labels)
    print("\n".join(table(rows, len(images))))
    problem = warning(rows, len(images))
    if problem:
        raise UserError(problem)


def test_images(batches, limit):
    """The first test images and their labels."""
    import numpy as np

    images, labels, count = [], [], 0
    for batch, label, _ in batches.epoch(0):
        images.append(batch)
        labels.append(label)
        count += len(label)
        if count >= limit:
            break
    return np.concatenate(images)[:limit], np.concatenate(labels)[:limit]


def mxnet_runner(net, shape):
    """(N, 3, H, W) -> logits, by the network itself; `shape` is that of a batch."""
    from mxnet import cpu, nd

    from graph.fast_cpu import hybridize

    hybridize(net, shape, [cpu()])
    return lambda batch: net(nd.array(batch)).asnumpy()


def onnx_runners(models):
    """(name, whether it has to agree, runner) for each runtime, precision and file."""
    from exporting.runtimes import RUNTIMES

    for name, runtime in RUNTIMES.items():
        for model, bits in zip(models, ("float32", "int8")):
            for precision in runtime.precisions[:1 if bits == "int8" else None]:
                label = f"{name} {bits if bits == 'int8' else precision}"
                try:
                    run = runtime(model.SerializeToString(), model.graph.input[0].name, precision)
                except (UserError, ValueError) as error:
                    print(f"{label}: left out, {error}")
                    continue
                yield label, label.endswith("float32"), run


if __name__ == "__main__":
    run_script(main, DataError)
