"""From export.py's options to the files that it writes, and their check."""
import itertools
import os
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import check_not_input, home_path, sha256, write_bytes, write_text, writing
from common.params import write_params
from common.threads import set_threads
from data import list_datasets
from runs.evaluation import open_data
from runs.trained import count_outputs

__all__ = ["check", "check_options", "check_pytorch", "complete", "find_outputs", "image_size",
           "make_models", "onnx_runners", "require_packages", "write_mxnet", "write_onnx",
           "write_pytorch"]

_CALIBRATION_BATCH, _CALIBRATION_IMAGES = 64, 512
# What some formats have and others have not.
_FORMATS = {"with_normalisation": ("onnx",), "int8": ("onnx",), "opset": ("onnx",),
            "calibration_images": ("onnx",), "check": ("onnx", "pytorch")}
_TOLERANCES = {"onnx": 1e-4, "pytorch": 1e-5}
_PYTORCH_ENDINGS = (".safetensors", ".pt2", ".README.txt")


# ---- what is asked for -------------------------------------------------------------------------

def check_options(options):
    """Raise UserError for options that do not go together."""
    if bool(options.params) == bool(options.pretrained):
        raise UserError("say what to export: either --params FILE or --pretrained NAME")
    for flag, formats in _FORMATS.items():
        if getattr(options, flag) and options.format not in formats:
            raise UserError(f"--{flag.replace('_', '-')} is for --format {' and '.join(formats)}")
    if options.calibration_images and not options.int8:
        raise UserError("--calibration-images says how many calibrate --int8, which is not given")


def require_packages(options):
    """Ask for what the format needs before anything else is done."""
    from exporting.packages import require

    needed = {"mxnet": [], "pytorch": ["torch"],
              "onnx": ["onnx", "onnxruntime"][:1 + (options.int8 or options.check)]}
    for name in needed[options.format]:
        require(name)


def find_outputs(options):
    """The files to write; raises UserError if one is in the way."""
    base = home_path(options.output or Path(options.params).with_suffix(
        ".onnx" if options.format == "onnx" else ""), "--output")
    if os.path.isdir(base):
        raise UserError(f"{base} is a folder; name a file with --output")
    if options.format == "mxnet":
        outputs = [base.with_name(f"{base.name}-symbol.json"),
                   base.with_name(f"{base.name}-0000.params")]
    elif options.format == "pytorch":
        stem = base.with_suffix("") if base.suffix in _PYTORCH_ENDINGS else base
        outputs = [stem.with_name(stem.name + ending) for ending in _PYTORCH_ENDINGS]
    else:
        outputs = [base, base.with_name(f"{base.stem}.int8{base.suffix}")][:1 + options.int8]
    # The parameters' description is read, too.
    inputs = [path for path in (options.params, Path(options.params).with_suffix(".json"),
                                options.rec_val, options.rec_val_idx) if path]
    for path in outputs:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; name a file with --output")
        check_not_input(path, *inputs)
        if os.path.lexists(path) and not options.overwrite:
            raise UserError(f"{path} exists; give --overwrite to replace it")
    return outputs


def complete(description, options, data):
    """Add what the options and the data say to a description; return the number of outputs."""
    described = description.setdefault("dataset", {})
    name = options.dataset or described["name"]
    described["name"] = name.lower() if name.lower() in list_datasets() else name
    if (data is None and "mean" not in described and described["name"] in list_datasets()
            and (options.with_normalisation or not options.outputs)):
        data = open_data(options, description)
    if data is not None and "mean" not in described:
        from runs.train import describe_dataset

        described.update({**describe_dataset(data[0]), "name": described["name"]})
    outputs = options.outputs or count_outputs(description)
    if not outputs:
        raise UserError(f"nothing says how many outputs the network of {options.params} has: give "
                        "--outputs")
    described["outputs"] = outputs
    if options.with_normalisation and "mean" not in described:
        raise UserError("--with-normalisation needs mean and standard deviation of the data set, "
                        f"which {options.params} has no description of")
    return outputs


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
        model = make_model(net, size, description, sha256(options.params), options.opset or 13,
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
    count = min(options.calibration_images or _CALIBRATION_IMAGES, len(dataset.train))
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


def write(path, writer, about=""):
    """Have a file written, in a folder that is made for it, and say so."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer()
    print(f"{path}: {path.stat().st_size:,} bytes{about}")


def write_onnx(models, outputs):
    """Write the models and say what they are."""
    for model, path in zip(models, outputs):
        write(path, partial(write_bytes, path, model.SerializeToString()),
              f", ONNX opset {model.opset_import[0].version}, {len(model.graph.node)} nodes")
    print(f"  input  {shown(models[0].graph.input[0])}")
    print(f"  output {shown(models[0].graph.output[0])}")


def shown(value):
    """Name, shape and type of an input or output."""
    tensor = value.type.tensor_type
    sizes = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    kind = "uint8, 0 to 255" if value.name == "pixels" else "float32"
    return f"{value.name} ({sizes}) {kind}" + (", normalised" if value.name == "images" else "")


def write_mxnet(net, outputs, size):
    """Write MXNet's own two files and say what they are."""
    from graph.graph import read_arrays, trace

    graph, params = trace(net, (3, size, size)), read_arrays(net)
    symbol = graph.to_symbol({"data": "images"}).tojson()
    arrays = {f"{'aux' if node.op == 'state' else 'arg'}:{name}": params[name]
              for name, node in graph.variables.items()}
    write(outputs[1], partial(write_params, outputs[1], arrays))
    write(outputs[0], partial(write_text, outputs[0], symbol))
    print(f"  load: mxnet.gluon.SymbolBlock.imports('{outputs[0]}', ['images'], '{outputs[1]}')\n"
          f"  input  images (batch, 3, {size}, {size}) float32, normalised")


def write_pytorch(net, outputs, size, description):
    """Write PyTorch's files and say what they are."""
    from exporting.pytorch_file import writers
    from graph.graph import read_arrays, trace

    graph, arrays = trace(net, (3, size, size)), read_arrays(net)
    for path, writer in zip(outputs, writers(graph, arrays, description, outputs)):
        write(path, writer)
    print(outputs[-1].read_text(encoding="utf-8"), end="")


# ---- checking ----------------------------------------------------------------------------------

def check(options, net, description, runners, data):
    """Compare runners on test images; raises UserError where one has to agree and does not.

    Returns the images, normalised, and their labels.
    """
    from exporting.comparison import compare, table, warning

    images, labels = test_images(data[1], options.limit_test)
    inputs = normalised(images, description)
    candidates = [("MXNet float32", True, mxnet_runner(net, inputs.shape), inputs)]
    for name, exact, run in runners:
        candidates.append((name, exact, run, images if options.with_normalisation else inputs))
    print(f"{len(images):,} test images of {data[0].title}; threads: {set_threads()}")
    rows = compare(candidates, labels)
    print(table(rows, len(images)))
    problem = warning(rows, len(images), _TOLERANCES[options.format])
    if problem:
        raise UserError(problem)
    return inputs, labels


def check_pytorch(options, net, description, outputs, data):
    """Check PyTorch's files, and that the network trains."""
    from exporting.pytorch_file import check_training, runners

    losses = check_training(outputs[0], *check(options, net, description, runners(outputs), data))
    print(f"training on the same images again and again: losses "
          f"{', '.join(f'{loss:.4f}' for loss in losses)}")


def test_images(batches, limit):
    """The first test images and their labels."""
    import numpy as np

    images, labels, _ = zip(*itertools.islice(batches.epoch(0), -(-limit // batches.batch_size)))
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
