"""What the launcher starts; that it does is tested in tests/machines/test_runs.py."""
import shlex
import sys

import pytest

from common.errors import UserError
from machines.launch import Plan, commands, main, make_parser, read_hosts
from tests import scripts
from tests.machines import cluster


def _plan(*argv):
    return Plan(make_parser().parse_args([str(word) for word in argv]))


@pytest.fixture
def hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("me@127.0.0.1:2222   slots=1  # the first\n\n# none\n127.0.0.2\n")
    return path


def test_local():
    started = commands(_plan("-n", 2, "-s", 1, "--env", "A=b c", "--", "x.py", "--lr", "0.1"))
    variables = [start.environ for start in started]
    command = [sys.executable, "-u", "x.py", "--lr", "0.1"]
    assert [start.command for start in started] == [command] * 3
    assert [(e["DMLC_ROLE"], e["DMLC_TASK_ID"]) for e in variables] == [
        ("worker", "0"), ("worker", "1"), ("server", "0")]
    assert {(e["DMLC_NUM_WORKER"], e["DMLC_NUM_SERVER"], e["DMLC_PS_ROOT_URI"], e["A"])
            for e in variables} == {("2", "1", "127.0.0.1", "b c")}
    assert len({e["DMLC_PS_ROOT_PORT"] for e in variables}) == 1
    assert len({e["ATAC_SECRET"] for e in variables}) == 1


def test_each_run_has_a_secret_of_its_own_that_no_command_line_shows(hosts):
    for argv in (("-n", 2), ("-n", 2, "-H", hosts), ("-n", 2, "--launcher", "slurm", "--host",
                                                     "127.0.0.1")):
        plans = [_plan(*argv, "--env", "ATAC_SECRET=known", "--", "x.py") for _ in range(2)]
        secrets = {plan.environ["ATAC_SECRET"] for plan in plans}
        assert len(secrets) == 2 and min(map(len, secrets)) >= 32
        for plan in plans:
            secret = plan.environ["ATAC_SECRET"]
            for start in commands(plan):
                assert not any(secret in word or "known" in word for word in start.command)
                assert start.input == secret + "\n" or start.environ["ATAC_SECRET"] == secret


def test_ssh(hosts):
    started = commands(_plan("-n", 2, "-s", 1, "-H", hosts, "--env", "A=b c", "--", "x.py", "a b"))
    lines = [start.command for start in started]
    assert lines[0][:6] == ["ssh", "-o", "BatchMode=yes", "-p", "2222", "me@127.0.0.1"]
    assert lines[1][:4] == ["ssh", "-o", "BatchMode=yes", "127.0.0.2"]
    words = shlex.split(lines[1][-1])
    assert {"A=b c", "DMLC_ROLE=worker", "DMLC_TASK_ID=1"} <= set(words)
    assert words[-4:] == [sys.executable, "-u", "x.py", "a b"]


@pytest.mark.parametrize("launcher, start", [
    ("mpi", ["mpirun", "-n", "2"]),
    ("slurm", ["srun", "--overlap", "--export=ALL", "-n", "2"])])
def test_clusters_start_each_role_once(launcher, start):
    workers, servers = commands(_plan(
        "-n", 2, "-s", 2, "--launcher", launcher, "--host", "127.0.0.1", "-p", 9000, "--", "x.py"))
    for started, role in ((workers, "worker"), (servers, "server")):
        assert started.command[:len(start)] == start
        told = started.environ.get("DMLC_ROLE") == role
        assert told or f"DMLC_ROLE={role}" in started.command
    # The numbers are the cluster's to give.
    assert not any(word.startswith("DMLC_TASK_ID")
                   for word in (*workers.command, *workers.environ))


@pytest.mark.parametrize("argv, message", [
    ((), "required: -n"),
    (("-n", 0, "--", "x.py"), "must be a whole number of at least 1"),
    (("-n", 2), "say what to run"),
    (("-n", 2, "--launcher", "ssh", "--", "x.py"), "-H FILE"),
    (("-n", 2, "-H", "none", "--", "x.py"), "cannot read --hostfile none: No such file"),
    (("-n", 2, "--env", "A", "--", "x.py"), "--env takes NAME=VALUE, not 'A'"),
    (("-n", 2, "--host", "192.0.2.1", "--", "x.py"), "--host 192.0.2.1: "),
    (("-n", 1, "--python", "no-such-python", "--", "x.py"), "cannot start no-such-python"),
], ids=str)
def test_errors(argv, message):
    with pytest.raises(UserError, match=message):
        main([str(word) for word in argv])


def test_a_host_file_that_names_an_option(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("-oProxyCommand=harm\n")
    with pytest.raises(UserError, match="names no machine"):
        read_hosts(path)
    path.write_text("# nobody\n")
    with pytest.raises(UserError, match="names no machine"):
        read_hosts(path)


def test_over_ssh(tmp_path, hosts):
    """An `ssh` that stays on this machine, and a script that tells its part."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor line; do :; done\nexec sh -c "$line"\n')
    ssh.chmod(0o755)
    (tmp_path / "part.py").write_text(
        "import os, pathlib, sys, time\n"
        "part = os.environ['DMLC_ROLE'], os.environ.get('DMLC_TASK_ID')\n"
        "assert len(os.environ['ATAC_SECRET']) == 32 and not sys.stdin.read()\n"
        "os.write(1, f'{part[0]} {part[1]} {sys.argv[1]}\\n'.encode())    # at one go\n"
        "pathlib.Path('-'.join(map(str, part)) + '.said').touch()\n"
        "if part != ('worker', '1'): sys.exit(0)\n"
        "while len(list(pathlib.Path().glob('*.said'))) < 4: time.sleep(0.02)\n"
        "sys.exit(7)\n")
    result = scripts.subprocess.run(
        cluster.launcher("-n", 2, "-s", 1, "-H", hosts, "--", "part.py", "a b"), cwd=tmp_path,
        env=cluster.environ(PATH=f"{tmp_path}:{scripts.os.environ['PATH']}"), text=True,
        capture_output=True, timeout=60)
    assert result.returncode == 7, result.stderr
    assert sorted(result.stdout.splitlines()) == [
        "scheduler None a b", "server 0 a b", "worker 0 a b", "worker 1 a b"]


def test_from_any_folder(tmp_path):
    """The launcher's file finds the project, though neither folder nor variables lead there."""
    (tmp_path / "part.py").write_text("import os; os.write(1, f'{os.getcwd()}\\n'.encode())\n")
    variables = {name: value for name, value in scripts.os.environ.items() if name != "PYTHONPATH"}
    result = scripts.subprocess.run(
        scripts.command("machines/launch.py", "-n", 1, "--", "part.py"), cwd=tmp_path,
        env=variables, text=True, capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [str(tmp_path)] * 3
