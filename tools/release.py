#!/usr/bin/env python3
"""Release the last parameters of finished runs: copy them to params/ and list them.

    python -m tools.release cifar10-relu-b1-seed0 cifar10-ChaATAC-b1-seed0

params/<run>/last.params and its JSON become params/<name>.params and .json, where <name> is
the run's without its seed; runs/released.json gets their size, SHA-256 and figures, and
docs/released.md is written anew. What is listed under the same name already is replaced. Then
`git add -f` the files and logs/<run>.
"""
import json
import re
import shutil
from pathlib import Path

from common.arguments import Parser
from common.errors import UserError, run_script
from common.files import replacing, sha256, write_json, write_text
from runs.trained import count_outputs, read_description

ROOT = Path(__file__).resolve().parents[1]
_LISTED = ROOT / "runs" / "released.json"
_MOST_BYTES = 2_000_000
_PAGE = """\
# Released networks

Written by `python -m tools.release RUN`. Each is the last epoch of one run, in `params/`; its
account is in `logs/RUN/`. `python evaluate.py --list` and `runs.released.list_released()` name
them, too.

    python evaluate.py --pretrained NAME                          # its score, on all test images
    python evaluate.py --all-released                             # all, beside what stands here
    python train_cifar.py --config logs/RUN/config.json --name again    # trains it once more

| name | data set | epochs | test accuracy % | its run |
|---|---|---:|---:|---|
"""
_FIGURES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
            "val_top5_accuracy")


def main(argv=None):
    parser = Parser(prog="tools.release", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="name of a run below params/")
    parser.add_argument("--params", type=Path, default=ROOT / "params", metavar="DIR",
                        help="where the runs' parameters are (default: params)")
    options = parser.parse_args(argv)
    checked = [(run, *check(options.params / run)) for run in options.runs]
    entries = {entry["name"]: entry for entry in json.loads(_LISTED.read_text())}
    for run, path, description in checked:
        entry = release(run, path, description)
        entries[entry["name"]] = entry
        print(f"{entry['name']}: {entry['size']:,} bytes, "
              f"{100 * entry['figures']['val_accuracy']:.2f} %")
    write_text(_LISTED, json.dumps(sorted(entries.values(), key=lambda each: each["name"]),
                                   indent=1) + "\n")
    write_text(ROOT / "docs" / "released.md", page(entries.values()))


def page(entries):
    """docs/released.md, of the entries of released.json."""
    rows = []
    for entry in sorted(entries, key=lambda each: each["name"]):
        logs, figures = f"../logs/{entry['run']}", entry["figures"]
        links = ", ".join(f"[{name}]({logs}/{file})" for name, file in (
            ("log", "train.log"), ("figures", "metrics.csv"), ("curves", "curves.png")))
        rows.append(f"| [{entry['name']}](../params/{entry['file']}) | {entry['dataset']} "
                    f"| {figures['epoch'] + 1} | {100 * figures['val_accuracy']:.2f} "
                    f"| {links} |\n")
    return _PAGE + "".join(rows)


def check(folder):
    """Path and description of a run's last parameters, if they can be released."""
    path = folder / "last.params"
    if not path.is_file():
        raise UserError(f"there is no {path}: is the run finished?")
    description = _described(path.with_suffix(".json"))
    if description["sha256"] != sha256(path):
        raise UserError(f"{path} is damaged: its SHA-256 is not the one in its JSON")
    if path.stat().st_size >= _MOST_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; a released file has less "
                        f"than {_MOST_BYTES:,}")
    if description["val_name"] != "test":
        raise UserError(f"{path} was scored on {description['val_name']} images, not on the test "
                        "set")
    return path, description


def _described(path):
    description = read_description(path)
    if ("sha256" not in description or not count_outputs(description)
            or not description.get("figures", {}).keys() >= set(_FIGURES)):
        raise UserError(f"{path} lacks the SHA-256, the classes or the figures of a finished run")
    return description


def release(run, path, description):
    """Copy one file and its description; returns its entry."""
    name = re.sub(r"-seed\d+$", "", run)
    target = ROOT / "params" / f"{name}.params"
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    write_json(target.with_suffix(".json"), description)
    return {"name": name, "file": target.name, "size": target.stat().st_size,
            "sha256": description["sha256"], "dataset": description["dataset"]["name"],
            "outputs": count_outputs(description), "model": description["model"],
            "options": description["options"],
            "figures": {key: description["figures"][key] for key in _FIGURES}, "run": run}


if __name__ == "__main__":
    run_script(main)
