"""Workers share calls; what is wrong with them is one line."""

import os
import signal
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from unetpipe import workers
from unetpipe.clusterspecs import ClusterSpec
from unetpipe.errors import ConfigError, Interrupted, UnetpipeError
from unetpipe.parsing import without_cluster
from unetpipe.signals import asked
from unetpipe.workers import open_workers

KEYS = {"threads": 1, "memory_bytes": 1_500_000_000}


def test_a_configuration_names_one_way_to_workers() -> None:
    document = {"predict": {"core_px": 64, "cluster": {"slurm": 3, "directives": ["--gpus=1"]}}, "models": {}}
    rest, cluster = without_cluster(document, "c.yaml")
    assert rest == {"predict": {"core_px": 64}, "models": {}}
    assert cluster == ClusterSpec(slurm=3, directives=("--gpus=1",)) and not cluster.is_none
    assert without_cluster({"predict": {"cluster": None}}, "c.yaml") == ({"predict": {}}, ClusterSpec())
    for given, said in (
        ({"local": 2, "slurm": 1}, r"c\.yaml: predict\.cluster\.slurm: expected one of .* came local and slurm"),
        ({"directives": ["-p gpu"]}, "predict.cluster.directives: are for slurm"),
        ({"local": -1}, "predict.cluster.*at least 0, came -1"),
        ({"nodes": 2}, "predict.cluster.nodes"),
        (4, "predict.cluster"),
    ):
        with pytest.raises(ConfigError, match=said):
            without_cluster({"predict": {"cluster": given}}, "c.yaml")


def test_a_package_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(workers, "importlib", SimpleNamespace(import_module=absent))
    with pytest.raises(ConfigError, match=r"needs the package distributed.*pip install 'unetpipe\[cluster\]'"):
        open_workers(ClusterSpec(local=2), **KEYS).__enter__()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ClusterSpec(address="tcp://127.0.0.1:1"), "expected a dask scheduler at tcp://127.0.0.1:1, none answers"),
        (ClusterSpec(address="nonsense"), "expected a dask scheduler at nonsense, none answers"),
        (ClusterSpec(scheduler_file="absent.json"), "there is no absent.json"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_line(
    spec: ClusterSpec, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "ANSWER_S", 1)
    with pytest.raises(ConfigError, match=said) as error, open_workers(spec, **KEYS):
        pass
    assert len(str(error.value)) < 300


def test_dask_that_never_begins_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    runners = pytest.importorskip("distributed.utils").LoopRunner

    def never(runner: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runners, "start", never)
    with pytest.raises(UnetpipeError, match="run fewer jobs at once"), open_workers(ClusterSpec(local=1), **KEYS):
        pass


def test_calls_are_shared_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    runners = pytest.importorskip("distributed.utils").LoopRunner
    late, start = [True, True], runners._start_unlocked

    def begin(runner: object) -> None:
        """Twice, the thread of the loop is not there in time."""
        assert runner._loop or not late or not late.pop()
        start(runner)

    monkeypatch.setattr(runners, "_start_unlocked", begin)
    found: list[int] = []
    with open_workers(ClusterSpec(local=1), **KEYS) as shared:
        assert shared.count == 1
        shared.each(abs, iter(range(-20, 0)), take=found.append)
        assert sorted(found) == list(range(1, 21))
        with pytest.raises(FileNotFoundError):
            shared.each(os.stat, ["/no/such/file"], take=found.append)
        address = shared.client.scheduler.address
        with open_workers(ClusterSpec(address=address), **KEYS) as others:
            others.each(abs, [-21], take=found.append)
    assert found[-1] == 21 and not late


@pytest.mark.slow
def test_a_call_of_which_workers_die_and_one_that_never_ends() -> None:
    pytest.importorskip("distributed")
    with open_workers(ClusterSpec(local=1), **KEYS) as shared:
        with pytest.raises(UnetpipeError, match="several workers died of the same tiles"):
            shared.each(os._exit, [1], take=print)
        asked.set()
        try:
            with pytest.raises(Interrupted):
                shared.each(time.sleep, [600], take=print)
        finally:
            asked.clear()


@pytest.mark.slow
def test_a_job_that_ends_early_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With an sbatch that starts what it is given, and a first job that is over before its call is."""
    pytest.importorskip("dask_jobqueue")
    dask = pytest.importorskip("dask")
    submit = f'cp "$1" {tmp_path}/job.$$; setsid bash {tmp_path}/job.$$ >/dev/null 2>&1 & echo "Submitted batch job $!"'
    for name, text in (("sbatch", f"{submit}; echo $! >>{tmp_path}/jobs"), ("scancel", "kill -- -$1")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(workers, "RENEW_S", 1.0)
    monkeypatch.setattr(workers, "MISSED_S", 2.0)
    found: list[None] = []
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        open_workers(ClusterSpec(slurm=1), **KEYS) as shared,
    ):
        shared.client.wait_for_workers(1, timeout=120)
        (first,) = (tmp_path / "jobs").read_text().split()
        Thread(target=lambda: (time.sleep(1), os.killpg(int(first), signal.SIGKILL))).start()
        shared.each(time.sleep, [3, 0.1], take=found.append)
    assert found == [None, None]
    assert len((tmp_path / "jobs").read_text().split()) == 2
    assert "there has been no worker for 2 s" in caplog.text
