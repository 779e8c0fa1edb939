import json

import pytest

from common.errors import UserError
from reporting.runs import DamagedRun, configurations, load_run, load_runs
from tests.reporting.run_folders import copy_run, write_run
from training.history import read_metrics


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_is_read(tmp_path):
    folder = write_run(tmp_path, "one", seed=3, activation="ChaATAC", blocks=2)
    run = load_run(folder)
    rows = read_metrics(folder / "metrics.csv")
    assert (run.name, run.seed, run.network, run.units) == (
        "one", 3, "resnet_v2_cifar b=2", "ChaATAC")
    assert run.rows == rows and run.last == rows[-1]
    assert run.best["val_accuracy"] == max(row["val_accuracy"] for row in rows)
    assert run.images_per_s == 1001.5 and run.minutes == (30 + 31 + 32 + 33) / 60
    assert run.params == tmp_path / "params/one"


def test_the_folder_at_hand_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path, "one"))
    assert load_run(".").name == "one" and load_run("../one/.").folder.name == "one"


def test_the_options_describe_a_run_without_params(tmp_path):
    with_params = load_run(write_run(tmp_path / "a", "one", activation="ChaATAC", reduction=4))
    without = load_run(write_run(tmp_path / "b", "one", activation="chaatac", reduction=4,
                                 params=False))
    assert without.description["options"]["activation"] == "ChaATAC"
    assert without.units == "ChaATAC (reduction=4)"
    assert without.network == with_params.network


@pytest.mark.parametrize("name, text, words", [
    ("result.json", None, "not finished"),
    ("config.json", None, "is no run"),
    ("metrics.csv", None, "no metrics.csv"),
    ("result.json", "{", "damaged"),
    ("result.json", "[]", "damaged"),
    ("result.json", "{}", "does not name the last epoch"),
    ("config.json", "{}", "names no model"),
    ("metrics.csv", "epoch,lr\n0,1\n", "no metrics file"),
    ("metrics.csv", "", "every epoch once"),
])
def test_damaged_runs(tmp_path, name, text, words):
    folder = write_run(tmp_path, "one")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(DamagedRun, match=words):
        load_run(folder)


def test_a_cut_or_repeated_metrics_file_is_damage(tmp_path):
    folder = write_run(tmp_path, "one")
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    for cut in (lines[:-1], lines + lines[-1:], lines[:2] + lines[3:]):
        (folder / "metrics.csv").write_text("".join(cut))
        with pytest.raises(DamagedRun, match="damaged"):
            load_run(folder)
    (folder / "metrics.csv").write_text("".join(lines).replace("30.0", "nan"))
    with pytest.raises(DamagedRun, match="not finite"):
        load_run(folder)


def test_files_that_disagree_are_damage(tmp_path):
    folder = write_run(tmp_path, "one")
    _edit(folder / "result.json", lambda result: result["best"].update(val_accuracy=0.123))
    with pytest.raises(DamagedRun, match="disagree on the best epoch"):
        load_run(folder)


def test_what_is_no_run_is_skipped_with_a_line(tmp_path):
    good = write_run(tmp_path, "good")
    unfinished = write_run(tmp_path, "unfinished")
    (unfinished / "result.json").unlink()
    (tmp_path / "logs/README.md").write_text("text")
    lines = []
    runs = load_runs([good, unfinished, good, tmp_path / "logs/README.md"], lines.append)
    assert [run.name for run in runs] == ["good"]
    assert len(lines) == 2
    assert "unfinished is not finished" in lines[0] and "README.md is no folder" in lines[1]


def test_no_usable_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        load_runs([tmp_path], lambda line: None)


def test_one_name_in_two_places(tmp_path):
    folders = [write_run(tmp_path / place, "same") for place in "ab"]
    assert [run.name for run in load_runs(folders, print)] == ["same", str(folders[1])]


def test_runs_that_differ_in_seed_only_come_together(tmp_path):
    folders = [write_run(tmp_path, f"relu-{seed}", seed) for seed in (2, 0, 1)]
    folders += [write_run(tmp_path, "black", 0, padding="black"),
                write_run(tmp_path, "atac", 0, activation="ChaATAC")]
    compared = configurations(load_runs(folders, print))
    assert [(each.units, each.options, [run.seed for run in each.runs]) for each in compared] == [
        ("relu", "padding=reflect", [0, 1, 2]), ("relu", "padding=black", [0]),
        ("ChaATAC", "padding=reflect", [0])]
    assert compared[0].place == compared[2].place != compared[1].place


def test_where_and_how_fast_it_ran_does_not_tell_runs_apart(tmp_path):
    folders = [write_run(tmp_path, "a", 0), write_run(tmp_path, "b", 1, data_dir="/else",
                                                      num_data_workers=7, no_wd=None,
                                                      mixup_new=0.0)]
    assert len(configurations(load_runs(folders, print))) == 1


def test_a_repeated_seed_counts_once(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    lines = []
    each, = configurations(load_runs([folder, copy_run(folder, "b")], print), log=lines.append)
    assert [run.name for run in each.runs] == ["a"]
    assert len(lines) == 1 and "b has the options and the seed of a" in lines[0]


def test_groups(tmp_path):
    folders = [write_run(tmp_path, f"random-{seed}", seed, reduction=seed + 1,
                         activation="ChaATAC", params=False) for seed in range(3)]
    folders.append(write_run(tmp_path, "plain"))
    grouped, plain = configurations(load_runs(folders, print), [("any r", "random-*")])
    assert grouped.units == "any r" and len(grouped.runs) == 3
    assert plain.units == "relu"


def test_runs_of_one_seed_in_a_group_all_count(tmp_path):
    """Random structures, say, all trained with seed 0; but not twice the same one."""
    folders = [write_run(tmp_path, f"random-{reduction}", 0, reduction=reduction,
                         activation="ChaATAC", params=False) for reduction in (1, 2)]
    lines = []
    runs = load_runs([*folders, copy_run(folders[0], "random-again")], print)
    each, = configurations(runs, [("random", "random-*")], lines.append)
    assert [run.name for run in each.runs] == ["random-1", "random-2"]
    assert len(lines) == 1 and "random-again" in lines[0]


def test_an_option_that_is_0_in_some_runs_is_named(tmp_path):
    runs = load_runs([write_run(tmp_path, "a", weight_decay=0.0),
                      write_run(tmp_path, "b", weight_decay=1e-4)], print)
    assert [each.options for each in configurations(runs)] == ["weight_decay=0.0",
                                                               "weight_decay=0.0001"]


def test_a_searched_structure_in_few_words(tmp_path):
    folder = write_run(tmp_path, "one", structure="logs/search/structure.json")
    _edit(tmp_path / "params/one/last.json", lambda description: description["options"].update(
        structure={"kind": "CBAM", "operations": ["CA", "SA(+)CA", "CA"], "unit_options": {}}))
    run = load_run(folder)
    assert run.units == "relu + SSCBAM (2 CA, 1 SA(+)CA)"
    assert run.network == "resnet_v2_cifar b=1" and "structure" not in run.recipe


def _with_images_per_step(folder, count):
    _edit(folder / "result.json", lambda result: result.update(images_per_step=count))
    return folder


def test_other_steps_are_another_configuration(tmp_path):
    """--batch-size is of each device and worker, of which config.json does not tell."""
    runs = load_runs([_with_images_per_step(write_run(tmp_path, f"a{seed}", seed), count)
                      for seed, count in enumerate((128, 128, 256))]
                     + [write_run(tmp_path, "older", 3)], print)
    found = configurations(runs)
    assert [[run.name for run in each.runs] for each in found] == [["a0", "a1", "older"], ["a2"]]
    assert found[1].options == "images_per_step=256"


def test_steps_that_are_no_number_are_damage(tmp_path):
    with pytest.raises(DamagedRun, match="images of a step"):
        load_run(_with_images_per_step(write_run(tmp_path, "one"), "many"))


@pytest.mark.parametrize("option, value", [("join_timeout", 600), ("kv_store", "dist_sync"),
                                           ("rec_val", "/elsewhere/val.rec")])
def test_ways_to_run_do_not_tell_runs_apart(option, value, tmp_path):
    runs = load_runs([write_run(tmp_path, "a", 0), write_run(tmp_path, "b", 1, **{option: value})],
                     print)
    assert len(configurations(runs)) == 1
