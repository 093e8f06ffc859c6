"""A project whose daily command goes to a private SLURM."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from private_slurm import PrivateSlurm, private_slurm
from projects import ROOT, Project

# Sooner than on a cluster of many, and the logs are looked at.
QUICK = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5", "--slurm-keep-successful-logs")
PROFILE = ("--profile", "workflow/profiles/slurm")
# Lines of the page on clusters that were followed when the tests' environment was made.
INSTALLATION = ("git clone ", "cd ", "make slurm", "source ")


class ClusterProject(Project):
    """A project whose daily command goes to a cluster."""

    def __init__(self, folder: Path, cluster: PrivateSlurm) -> None:
        super().__init__(folder)
        self.cluster = cluster

    @property
    def environment(self) -> dict[str, str]:
        """The cluster's programs come behind this Python's, which has none of their names."""
        own = super().environment
        path = f"{self.cluster.folder / 'bin'}{os.pathsep}{own['PATH']}{os.pathsep}/usr/sbin"
        return own | self.cluster.variables | {"PATH": path}

    def run(self, *arguments: str) -> None:
        """The daily command on a cluster."""
        shutil.rmtree(self.results / "logs", ignore_errors=True)
        ended = self.snakemake(*PROFILE, *QUICK, *arguments)
        assert ended.returncode == 0, ended.stderr[-4000:]

    def follow_the_page(self) -> list[str]:
        """Do what docs/cluster.md says, word by word, but for the installation; the lines that were run."""
        path = self.folder / "workflow/profiles/slurm/config.yaml"
        profile = path.read_text()
        # The marked place, as for a cluster that has partitions, and cards of one kind.
        for key, value in (("slurm_account", "tests"), ("slurm_partition", "normal")):
            profile = re.sub(rf"# ({key}): .*", rf"\1: {value}", profile)
        profile = re.sub("(?<=checks: ).*", "3\nslurm-keep-successful-logs: true", profile)
        path.write_text(re.sub("(?<=latency-wait: ).*", "5", profile))
        page = (ROOT / "docs/cluster.md").read_text()
        text = page[page.index("## Once") : page.index("\n## ", page.index("## Every day"))]
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
        lines = [line.strip() for line in "".join(blocks).splitlines() if line.strip()]
        followed = [line for line in lines if not line.startswith(INSTALLATION)]
        for line in followed:
            ended = subprocess.run(
                line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True
            )
            assert ended.returncode == 0, ended.stderr[-4000:]
        return followed

    def asked(self, since: int = 0) -> dict[str, list[dict[str, Any]]]:
        """What jobs held, by rule or group, of those with a larger id: as the log of completed jobs has it."""
        found: dict[str, list[dict[str, Any]]] = {}
        completed = self.cluster.completed()
        for number, job in self.cluster.jobs().items():
            if int(number) > since:
                held = dict(part.split("=") for part in completed[number]["Tres"].split(","))
                name = Path(job["StdOut"]).relative_to(self.results / "logs/slurm").parts[0]
                found.setdefault(name, []).append(
                    {
                        # Not what was asked for; the log tells of GPUs only where SLURM has a database of accounts.
                        "gpus": int(job["JOB_GRES"].partition("gpu:")[2] or 0),
                        "cpus": int(held["cpu"]),
                        "mem_mb": int(held["mem"].removesuffix("M")),
                        "minutes": int(completed[number]["TimeLimit"]),
                        "tasks": int(job["NumTasks"]),
                        "nodes": int(held["node"]),
                        "state": completed[number]["JobState"],
                    }
                )
        return found


@contextmanager
def cluster_in_tmp() -> Iterator[PrivateSlurm]:
    """A cluster; not in pytest's folders, which munge may not enter."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as place:
        Path(place).chmod(0o755)
        with private_slurm(Path(place)) as one:
            yield one
