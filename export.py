#!/usr/bin/env python3
"""Write a trained network as files of ONNX, PyTorch or MXNet.

    python export.py --params params/demo/best.params
    python export.py --params params/demo/best.params --int8 --check
    python export.py --params params/demo/best.params --format pytorch --check
    python export.py --params params/demo/best.params --format mxnet --output net
"""

from common.arguments import Parser, positive_int
from common.errors import UserError, run_script
from common.threads import set_threads
from exporting import command
from runs import options as shared
from runs.evaluation import open_data, with_params
from runs.trained import check_fits, find_description, load_network


def make_parser():
    parser = Parser(prog="export.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--params", metavar="FILE.params",
        help="file to export; the JSON beside it describes its network and data")
    add("--pretrained", metavar="NAME", help="export released parameters, in place of --params")
    add("--output", metavar="FILE",
        help="file to write; unless it is for ONNX, the beginning of several names (default: "
             "--params with the ending .onnx, or without one)")
    add("--format", choices=("onnx", "pytorch", "mxnet"), default="onnx",
        help="onnx; pytorch: FILE.safetensors to train, FILE.pt2 to predict, FILE.README.txt; or "
             "mxnet: FILE-symbol.json and FILE-0000.params for SymbolBlock.imports")
    add("--opset", type=int, choices=range(13, 18), metavar="13..17",
        help="version of ONNX's operators; 13, the default, is known to most runtimes")
    add("--with-normalisation", action="store_true",
        help="take uint8 pixels, 0 to 255, and normalise inside the file (default: take "
             "normalised float32)")
    add("--int8", action="store_true",
        help="also write FILE.int8.onnx, calibrated with training images")
    add("--calibration-images", type=positive_int, metavar="N",
        help="how many of them, spread over the training set (default: 512)")
    add("--check", action="store_true",
        help="compare MXNet and what runs the files on test images, and measure their speed; "
             "for PyTorch also train a few steps")
    add("--limit-test", type=positive_int, default=1000, metavar="N",
        help="how many test images --check takes, from the first on")
    add("--outputs", "--classes", type=positive_int, metavar="N",
        help="number of the network's outputs (default: as described)")
    add("--overwrite", action="store_true", help="replace files that exist")
    shared.add_described_options(parser, "For --int8, --check, and files without a JSON.")
    parser.set_defaults(batch_size=128, crops=1)
    return parser


def main(argv=None):
    options = make_parser().parse_args(argv)
    command.check_options(options)
    set_threads()
    options = with_params(options)
    description = find_description(options.params, options)
    outputs = command.find_outputs(options)
    command.require_packages(options)
    data = open_data(options, description) if options.check or options.int8 else None
    count = command.complete(description, options, data)
    if data is not None:
        check_fits(options.params, description, count, data[0])

    net = load_network(options.params, description, count)
    size = command.image_size(options, description)
    if data is not None and data[0].image_size != size:
        raise UserError(f"the file would be for images of {size} pixels, the test images have "
                        f"{data[0].image_size}: leave out --check and --int8")
    if options.format == "onnx":
        models = command.make_models(options, net, description, size, data)
        command.write_onnx(models, outputs)
        if options.check:
            command.check(options, net, description, command.onnx_runners(models), data)
    elif options.format == "pytorch":
        command.write_pytorch(net, outputs, size, description)
        if options.check:
            command.check_pytorch(options, net, description, outputs, data)
    else:
        command.write_mxnet(net, outputs, size)
    return 0


if __name__ == "__main__":
    run_script(main)
