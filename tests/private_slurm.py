"""A SLURM of one's own on this machine: munged, slurmctld and two slurmd on loopback, with GPUs that are none.

python tests/private_slurm.py start FOLDER    prints the variables to set
python tests/private_slurm.py stop FOLDER

Everything lies in FOLDER, which all users must be able to enter, as those of `mktemp -d` in /tmp after `chmod 755`.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("n1", "n2")
CPUS, MEMORY_MB, GPUS = 16, 64000, 2
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
PATIENCE_S = 30.0
SYSTEM = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONTROL = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
JobRequeue=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/completed.txt
GresTypes=gpu
{nodes}
PartitionName=normal Nodes=ALL Default=YES MaxTime=1440 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=urgent Nodes=ALL MaxTime=1440 DefaultTime=10 PriorityTier=9 PreemptMode=OFF State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "GPUs that are none are devices, which root alone can make"


class PrivateSlurm:
    """A cluster in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    def variables(self) -> dict[str, str]:
        """What finds this cluster in the environment."""
        return {"SLURM_CONF": str(self.folder / "etc/slurm.conf"), "PATH": f"{self.folder / 'bin'}:{SYSTEM}"}

    def call(self, *command: str) -> str:
        """Output of a command of SLURM."""
        environment = os.environ | self.variables
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=20).stdout

    def start(self) -> None:
        """Start everything, and wait until jobs can come."""
        for name in ("etc", "run", "log", "state", "spool", "bin", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        port = free_ports(1 + len(NODES))
        host, user = socket.gethostname().split(".")[0], os.environ.get("USER") or "root"
        lines, devices = [], []
        for name, own in zip(NODES, port[1:], strict=True):
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} CPUs={CPUS} "
                f"RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
            )
            for number in range(GPUS):
                # A GPU must be a character device: this one is another /dev/null.
                os.mknod(self.folder / f"dev/{name}gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            devices.append(f"NodeName={name} Name=gpu File={self.folder}/dev/{name}gpu[0-{GPUS - 1}]")
        values = {"folder": self.folder, "host": host, "user": user, "port": port[0], "nodes": "\n".join(lines)}
        (self.folder / "etc/slurm.conf").write_text(CONTROL.format(**values))
        (self.folder / "etc/gres.conf").write_text("\n".join(devices) + "\n")
        key = self.folder / "etc/munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        # The plug-in takes SLURM_CONF from the environment of its own steps; clusters have their file in /etc.
        srun = self.folder / "bin/srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.variables["SLURM_CONF"]} exec {shutil.which("srun", path=SYSTEM)} "$@"\n'
        )
        srun.chmod(0o755)
        run = self.folder / "run"
        self.call(
            "munged", f"--socket={run}/munge.socket", f"--key-file={key}", f"--pid-file={run}/munged.pid",
            f"--log-file={self.folder}/log/munged.log", f"--seed-file={run}/munge.seed",
        )  # fmt: skip
        self.call("slurmctld", "-f", self.variables["SLURM_CONF"], "-i")
        for name in NODES:
            self.start_node(name)
        wait_for(lambda: self.call("sinfo", "-h", "-N", "-p", "normal", "-t", "idle", "-o", "%N").split() == [*NODES])

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self.call("slurmd", "-f", self.variables["SLURM_CONF"], "-N", name)

    def pid(self, daemon: str) -> int:
        """Process of a daemon: ``slurmctld``, ``munged``, ``slurmd.n1``."""
        return int((self.folder / f"run/{daemon}.pid").read_text())

    def stop(self) -> None:
        """Cancel all jobs and end the daemons, by their pids."""
        try:
            ids = self.call("squeue", "-h", "-o", "%A").split()
            if ids:
                self.call("scancel", *ids)
                wait_for(lambda: not self.call("squeue", "-h", "-o", "%A").split())
        except (subprocess.SubprocessError, OSError):
            # It did not start, or does not answer: its processes are ended all the same.
            pass
        for daemon in ("slurmctld", *(f"slurmd.{name}" for name in NODES), "munged"):
            if (self.folder / f"run/{daemon}.pid").exists():
                end(self.pid(daemon))

    def jobs(self) -> dict[str, dict[str, str]]:
        """What SLURM knows of every job, by id."""
        return by_id(self.call("scontrol", "show", "job", "-d", "-o"))

    def completed(self) -> dict[str, dict[str, str]]:
        """What SLURM has written of every job that ended into its log of completions, by id."""
        return by_id((self.folder / "log/completed.txt").read_text())


def by_id(text: str) -> dict[str, dict[str, str]]:
    """The fields of jobs, one job a line, by their id."""
    lines = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
    return {fields["JobId"]: fields for fields in lines if "JobId" in fields}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(reached: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if reached():
                return
        except (subprocess.SubprocessError, OSError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {seconds} s")
        time.sleep(0.1)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it buried or not."""
    try:
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except FileNotFoundError:
        return True


def end(pid: int) -> None:
    """End a process, by force if it does not listen."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if is_gone(pid):
            return
        os.kill(pid, number)
        try:
            wait_for(lambda: is_gone(pid), 10)
        except TimeoutError:
            continue


@contextmanager
def private_slurm(folder: Path) -> Iterator[PrivateSlurm]:
    """A cluster that lives as long as the block."""
    cluster = PrivateSlurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    verb, place = sys.argv[1:]
    one = PrivateSlurm(Path(place))
    if verb == "start":
        one.start()
        sys.stdout.writelines(f"export {name}={value}\n" for name, value in one.variables.items())
    else:
        one.stop()
