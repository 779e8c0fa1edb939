"""Folders of runs as training leaves them, with figures that are made up."""
import json
import math
import random
import shutil

from training.history import write_metrics

CLASSES = [f"class {index}" for index in range(10)]


def write_run(root, name, seed=0, accuracy=0.8, epochs=4, activation="relu", blocks=1, params=True,
              rows=None, **config):
    """A finished run under root/logs and root/params, without parameter files.

    Parameters
    ----------
    rows : list of dict, optional
        Figures of each epoch, in place of those that are made up.

    Returns
    -------
    pathlib.Path
        Its folder under logs/.
    """
    noise = random.Random(f"{name} {seed}")
    logs = root / "logs" / name
    logs.mkdir(parents=True)
    made = []
    epochs = epochs if rows is None else len(rows)
    for epoch in range(epochs):
        reached = accuracy * (1 - 0.8 * math.exp(-2 * epoch)) + noise.uniform(-0.01, 0.01)
        made.append({"epoch": epoch, "lr": 0.1, "train_loss": -math.log(reached + 0.02),
                     "train_accuracy": reached + 0.02, "val_loss": -math.log(reached),
                     "val_accuracy": reached, "val_top5_accuracy": min(1.0, reached + 0.15),
                     "images_per_s": 1000 + epoch, "seconds": 30.0 + epoch,
                     **(rows[epoch] if rows else {})})
    write_metrics(logs / "metrics.csv", made)
    best = max(made, key=lambda row: row["val_accuracy"])
    _write(logs / "result.json", {"last": made[-1], "best": best, "val_name": "test"})
    _write(logs / "config.json", {
        "model": "resnet_v2_cifar", "act_type": activation, "blocks": blocks, "attention": None,
        "dataset": "cifar10", "data_dir": None, "limit_train": None, "padding": "reflect",
        "num_epochs": epochs, "batch_size": 128, "lr": 0.2, "lr_mode": "cosine", "seed": seed,
        "no_wd": False, "name": name, "save_dir": "params", "log_dir": "logs", **config})
    if params:
        folder = root / "params" / name
        folder.mkdir(parents=True)
        _write(folder / "last.json", {
            "model": "resnet_v2_cifar",
            "options": {"blocks": blocks, "activation": activation, "replace_act": "relu"},
            "dataset": {"name": "cifar10", "classes": 10, "class_names": CLASSES,
                        "mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 32},
            "epoch": epochs - 1, "figures": made[-1]})
    return logs


def _write(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n")


def copy_run(folder, name):
    """A second folder with the same files."""
    return shutil.copytree(folder, folder.with_name(name))
