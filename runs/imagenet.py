"""Training on photographs, ImageNet's or others, as a `runs.train.Job`."""
import os

from common.arguments import given, replaced
from common.errors import UserError
from data.imagenet import open_imagenet
from data.photos import Decoding
from model.zoo import MODELS

from .released import find_released
from .train import Data, Job
from .trained import load_network, read_description
from .weights import load_weights

__all__ = ["ImageNetTraining"]


class ImageNetTraining(Job):
    """GluonCV's recipe, which the paper's ImageNet runs follow; perhaps with a teacher."""

    milestones, epochs, style = (40, 60), 80, "imagenet"

    def describe(self, options):
        """See `runs.describe.describe`."""
        _check(options)
        if options.act_type is None and options.model.lower().endswith("_v1b"):
            options = replaced(options, act_type="ChaATAC")
        return super().describe(options)

    def open_data(self, options, batch_size, shard):
        """Records or folders, as the options say."""
        return Data(*open_imagenet(
            options.dataset, options.use_rec, options.data_dir, options.rec_train,
            options.rec_train_idx, options.rec_val, options.rec_val_idx, batch_size,
            Decoding(options.input_size, options.crop_ratio, workers=options.num_data_workers),
            options.seed, shard))

    def evaluation_options(self, options):
        """The records or the folder."""
        names = ("use_rec", "rec_val", "rec_val_idx") if options.use_rec else ("data_dir",)
        return given(options, *names, "crop_ratio")

    def first_weights(self, options, description):
        """Those of --resume-from or --pretrained."""
        if options.pretrained:
            dataset = None if options.new_classifier else options.dataset
            return find_released(description, dataset).path
        return options.resume_from

    def make_teacher(self, options, outputs):
        """``teacher()`` -> the network of --teacher, or None."""
        return options.teacher and (lambda: _load_teacher(options, outputs))


def _check(options):
    """Raise UserError for options that contradict each other."""
    if options.mixup_alpha and not options.mixup:
        raise UserError("--mixup-alpha has no meaning without --mixup")
    if options.teacher_params and not options.teacher:
        raise UserError("--teacher-params has no meaning without --teacher")
    if options.pretrained and options.resume_from:
        raise UserError("--pretrained and --resume-from both say where to start: give one")


def _load_teacher(options, outputs):
    """The teacher: described by the JSON beside its file, else by its name alone."""
    import mxnet as mx
    path = options.teacher_params
    description = {"model": options.teacher, "options": {}}
    beside = os.path.splitext(path)[0] + ".json" if path else ""
    if beside and os.path.isfile(beside):
        description = read_description(beside)
        if description["model"].lower() != options.teacher.lower():
            raise UserError(f"{beside} says that the file holds {description['model']}, not the "
                            f"--teacher {options.teacher}")
    if path and description["model"] in MODELS:
        return load_network(path, description, outputs)
    net = _gluoncv_network(options.teacher, outputs, released=not path)
    if path:
        net.infer_shape(mx.nd.zeros((1, 3, options.input_size, options.input_size)))
        load_weights(net, path)
    return net


def _gluoncv_network(name, outputs, released):
    from gluoncv.model_zoo import get_model

    try:
        return get_model(name, pretrained=released, classes=outputs)
    except ValueError as error:
        raise UserError(f"--teacher {name}: neither this project nor GluonCV has such a network "
                        f"({str(error).splitlines()[0][:100]})") from None
    except Exception as error:    # whatever a download may raise
        raise UserError(f"--teacher {name}: its released parameters cannot be had "
                        f"({str(error).splitlines()[0][:100]}); name a file with "
                        "--teacher-params") from None
