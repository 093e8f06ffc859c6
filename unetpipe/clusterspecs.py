"""Who computes where one process is not enough: it stands outside of all specs, for no result depends on it."""

from dataclasses import dataclass

from unetpipe.errors import ConfigError
from unetpipe.fields import Checked, key

__all__ = ["ClusterSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec(Checked):
    """Where workers are; no part of the result: changing it runs nothing again. One of the first four at most."""

    local: int = key(
        0, "that many processes of this machine, each with a GPU of its own where there are some", at_least=0
    )
    address: str = key("", "workers of the dask scheduler at this address, such as `tcp://node1:8786`")
    scheduler_file: str = key("", "workers of the dask scheduler that has written this file")
    slurm: int = key(
        0,
        "that many jobs of SLURM, by dask-jobqueue; its own configuration says partition, time and whatever else",
        at_least=0,
    )
    directives: tuple[str, ...] = key((), "more options for sbatch, such as `--gpus=1`")

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        ways = {name: getattr(self, name) for name in ("local", "address", "scheduler_file", "slurm")}
        if len(given := [name for name, value in ways.items() if value]) > 1:
            raise ConfigError(f"{given[-1]}: expected one of {', '.join(ways)}, came {' and '.join(given)}")
        if self.directives and not self.slurm:
            raise ConfigError("directives: are for slurm; say how many jobs by slurm, or leave them out")

    @property
    def is_none(self) -> bool:
        """Whether there are no workers: one process does all."""
        return not (self.local or self.address or self.scheduler_file or self.slurm)
