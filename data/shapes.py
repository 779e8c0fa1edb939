"""The built-in data set ``shapes``: ten figures, drawn when they are needed.

Each 32x32 colour image shows one figure (disc, ring, square, frame, triangle, star,
cross, heart, crescent, arrow), a little turned, in any place and colour, light on dark or
dark on light, before a patterned and noisy background and among stray strokes. Pixels say
little by themselves: a linear classifier gets one or two images in ten right, while
a small convolutional network passes 90 % in a few epochs.

The images are a function of the seed alone, with the same bits on every machine, and the
first N images do not depend on how many follow. In the CIFAR-10 format, for other programs:

    python -m data.shapes OUT_DIR
"""
from pathlib import Path

from common.arguments import Parser, seed, whole_number
from common.errors import DataError, run_script
from common.files import home_path, write_bytes, write_text, writing
from data.dataset import DATASETS, Dataset, ImageSet

__all__ = ["CLASS_NAMES", "MEAN", "STD", "load_shapes", "draw_split", "write_cifar_files"]

CLASS_NAMES = ["disc", "ring", "square", "frame", "triangle", "star", "cross", "heart",
               "crescent", "arrow"]
TRAIN_IMAGES = 10000
TEST_IMAGES = 2000

# Of the training images of seed 0.
MEAN = (0.5019, 0.5019, 0.5019)
STD = (0.2542, 0.2531, 0.2534)

_CHUNK = 250    # scenes drawn at once; their arrays then stay in the processor's cache
_BATCH_FILES = 5
_MOST_IMAGES = 1_000_000     # the largest file then has less than what readers accept


@DATASETS.register("shapes")
def load_shapes(data_dir=None, data_url=None, log=print):
    """The data set; it is drawn, so it takes neither a folder nor a URL."""
    if data_dir is not None or data_url is not None:
        raise DataError("the data set 'shapes' is drawn from a seed: it reads no files, so "
                         "it takes no data folder and no URL")
    train, test = draw_split("train", TRAIN_IMAGES), draw_split("test", TEST_IMAGES)
    return Dataset(name="shapes", title="shapes", class_names=list(CLASS_NAMES), mean=MEAN,
                   std=STD, train=train, val=test, test=test, official_train=TRAIN_IMAGES,
                   official_test=TEST_IMAGES)


def draw_split(split, count, seed=0):
    """Draw the first `count` images of a split.

    Parameters
    ----------
    split : str
        'train', 'test' or any other word: each has its own random numbers.
    count : int
        Number of images; among the first 10 n each class has n.
    seed : int, default 0
        Not negative.

    Returns
    -------
    ImageSet
    """
    import numpy as np

    from data import drawing
    from data.streams import bit_stream

    if count < 1:
        raise DataError(f"count is {count}; it must be at least 1")
    classes = len(CLASS_NAMES)
    blocks = -(-count // classes)
    keys = bit_stream(seed, f"shapes {split} labels").random_raw(blocks * classes)
    labels = np.argsort(keys.reshape(blocks, classes), axis=1, kind="stable")
    labels = labels.reshape(-1)[:count].astype(np.int32)
    images = np.empty((count, 3, drawing.SIZE, drawing.SIZE), np.uint8)
    stream = bit_stream(seed, f"shapes {split} scenes")
    for start in range(0, count, _CHUNK):
        part = labels[start:start + _CHUNK]
        words = stream.random_raw(len(part) * drawing.SCENE_WORDS)
        images[start:start + _CHUNK] = drawing.draw_scenes(words.reshape(len(part), -1), part)
    return ImageSet(images, labels)


def write_cifar_files(folder, train, test):
    """Write two ImageSets as data_batch_1..5.bin, test_batch.bin and batches.meta.txt.

    Each file is written under a temporary name and renamed when it is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(train) // _BATCH_FILES)
    for number in range(_BATCH_FILES):
        part = train.take(slice(number * step, (number + 1) * step))
        write_bytes(folder / f"data_batch_{number + 1}.bin", _records(part))
    write_bytes(folder / "test_batch.bin", _records(test))
    write_text(folder / "batches.meta.txt", "".join(f"{name}\n" for name in CLASS_NAMES))


def _records(image_set):
    """The bytes of the CIFAR-10 records: a label, then the three planes."""
    import numpy as np

    count = len(image_set)
    records = np.empty((count, 1 + image_set.images[0:1].size), np.uint8)
    records[:, 0] = image_set.labels
    records[:, 1:] = image_set.images.reshape(count, -1)
    return records.tobytes()


def parse_args(argv=None):
    parser = Parser(prog="python -m data.shapes",
                    description="Write the data set 'shapes' in the binary format of CIFAR-10.")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write into; made if absent")
    parser.add_argument("--train", type=whole_number(1, _MOST_IMAGES), default=TRAIN_IMAGES,
                        metavar="N", help="training images")
    parser.add_argument("--test", type=whole_number(1, _MOST_IMAGES), default=TEST_IMAGES,
                        metavar="N", help="test images")
    parser.add_argument("--seed", type=seed, default=0, metavar="N",
                        help="0 draws the images that --dataset shapes has")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder = home_path(args.out_dir)
    with writing(folder):
        write_cifar_files(folder, draw_split("train", args.train, args.seed),
                          draw_split("test", args.test, args.seed))
    print(f"{folder}: {args.train:,} training and {args.test:,} test images of "
          f"{len(CLASS_NAMES)} classes")
    return 0


if __name__ == "__main__":
    run_script(main)
