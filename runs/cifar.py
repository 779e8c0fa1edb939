"""Training on small images: data sets that fit into memory, as a `runs.train.Job`."""
from common.arguments import given
from data import get_dataset
from data.batches import Batches, Preparation

from .train import Data, Job

__all__ = ["CifarTraining", "open_cifar", "training_batches"]


class CifarTraining(Job):
    """The paper's recipe: 400 epochs, the rate divided at 300 and 350."""

    milestones, epochs = (300, 350), 400

    def open_data(self, options, batch_size, shard):
        """See `open_cifar`."""
        return open_cifar(options, batch_size, shard)

    def make_parts(self, setup, engine, log):
        """As of any run; an engine that has room gets all training images at once."""
        train = setup.data.train
        if train.source.images.nbytes <= engine.room:
            engine.keep(train.keep())
            log.info(f"the training images are kept on {', '.join(setup.devices)}")
        return super().make_parts(setup, engine, log)

    def evaluation_options(self, options):
        """The folder or the archive, if one was named."""
        return given(options, "data_dir", "data_url")


def open_cifar(options, batch_size, shard):
    """The data set that the options name, as `runs.train.Data`."""
    dataset = get_dataset(options.dataset, options.data_dir, options.data_url,
                          options.limit_train, getattr(options, "val_split", 0), options.seed)
    train = training_batches(options, dataset, dataset.train, batch_size, shard, options.seed)
    val, test = (Batches(images, batch_size, train=False, shard=shard,
                         preparation=Preparation(prefetch=options.num_data_workers))
                 for images in (dataset.val, dataset.test))
    return Data(dataset, train, val, test)


def training_batches(options, dataset, images, batch_size, shard, seed):
    """Batches of training images of a data set, shuffled and augmented as the options say."""
    return Batches(images, batch_size, seed, shard=shard, preparation=Preparation(
        options.padding, dataset.mean, prefetch=options.num_data_workers))
