"""Samples that share a job, so that a thousand small ones do not start thousands of processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from unetpipe.config import Config

__all__ = ["Batch", "batches"]

# Stands for the name of any sample, as in rules of Snakemake.
ANY = "{sample}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of which one job of a stage does one after the other.

    Parameters
    ----------
    names : tuple of str
        Names of the samples; ``{sample}`` alone stands for each of them, in a job of its own.
    number : int
        Number of the batch, from 1 on; 0 for ``{sample}``.
    """

    names: tuple[str, ...]
    number: int = 0

    def rule(self, stage: str) -> str:
        """Name of the batch's rule.

        Examples
        --------
        >>> Batch(names=("{sample}",)).rule("ingest"), Batch(names=("a", "b"), number=3).rule("ingest")
        ('ingest', 'ingest_3')
        """
        return f"{stage}_{self.number}" if self.number else stage

    def files(self, pattern: str) -> list[str]:
        """A file of each sample.

        Examples
        --------
        >>> Batch(names=("a", "b"), number=3).files("results/{model}/{sample}.json")
        ['results/{model}/a.json', 'results/{model}/b.json']
        """
        return [pattern.replace(ANY, name) for name in self.names]

    def file(self, pattern: str) -> str:
        """A file of the job.

        Examples
        --------
        >>> Batch(names=("a", "b"), number=3).file("times/{sample}.tsv")
        'times/batch-3.tsv'
        """
        return pattern.replace(ANY, f"batch-{self.number}") if self.number else pattern

    def each(self, value: Callable[[str], str]) -> Callable[[Any], list[str]]:
        """A function of a job's wildcards that gives a value of each sample."""

        def of_job(wildcards: Any) -> list[str]:
            return [value(name) for name in self.samples(wildcards)]

        return of_job

    def samples(self, wildcards: Any) -> Sequence[str]:
        """The samples of a job with these wildcards."""
        return self.names if self.number else (wildcards.sample,)


def batches(config: Config) -> list[Batch]:
    """The jobs of all stages that go from sample to sample.

    Parameters
    ----------
    config : Config
        The whole configuration; `samples_per_job` counts.

    Returns
    -------
    list of Batch
        With one sample per job, one batch that stands for any. Otherwise batches of samples that go the same way: of
        one split, data set and fold, with or without an annotation, drawn or not. They stay in the order of the sheet,
        so that a row at its end changes one batch.
    """
    size = config.samples_per_job
    if size == 1:
        return [Batch(names=(ANY,))]

    def way(name: str) -> tuple[Any, ...]:
        sample = config.samples[name]
        drawn = config.is_simulated(sample.image)
        return sample.split, sample.dataset, config.folds.get(name, -1), not sample.annotation, drawn

    found: list[Batch] = []
    # Sorting keeps the order of the sheet within each way.
    for _, group in groupby(sorted(config.samples, key=way), key=way):
        names = tuple(group)
        parts = [names[i : i + size] for i in range(0, len(names), size)]
        found += [Batch(names=part, number=len(found) + i) for i, part in enumerate(parts, 1)]
    return found
