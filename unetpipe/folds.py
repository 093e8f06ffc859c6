"""Cross-validation: which part of the training samples each network leaves out."""

from collections.abc import Mapping
from typing import Any

from unetpipe.errors import ConfigError
from unetpipe.samples import Sample, datasets_of

__all__ = ["folds_of"]


def folds_of(samples: Mapping[str, Sample], count: Any, sheet: str) -> dict[str, int]:
    """Fold of each training sample, each data set by itself.

    Parameters
    ----------
    samples : mapping of str to Sample
        All samples.
    count : Any
        What stands under ``folds:``, a number of folds; 0: as in the sheet's column ``fold``, or none.
    sheet : str
        What to call the sheet in messages.

    Returns
    -------
    dict of str to int
        Empty where there are no folds. Otherwise the samples in the order of their names take the folds in turn.

    Raises
    ------
    ConfigError
        If a training sample has no fold where another has, folds are counted twice, or one is empty.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0 or count == 1:
        raise ConfigError(f"folds: expected 0 or a whole number from 2 on, came {count!r:.60}; write one")
    folds = dict[str, int]()
    for dataset in datasets_of(samples):
        folds |= _folds({name: one for name, one in samples.items() if one.dataset == dataset}, count, sheet)
    return folds


def _folds(samples: Mapping[str, Sample], count: int, sheet: str) -> dict[str, int]:
    """Fold of each training sample of a data set."""
    training = sorted(name for name, sample in samples.items() if sample.split == "train")
    given = {name: fold for name in training if (fold := samples[name].fold) is not None}
    if given:
        missing = next((name for name in training if name not in given), None)
        if missing is not None:
            raise ConfigError(
                f"{sheet}: sample {missing}: fold: expected a number as other samples have, came nothing; write one"
            )
        if count:
            raise ConfigError(f"folds: follows from the column fold of {sheet}; leave out one of them")
        if len(set(given.values())) < 2:
            raise ConfigError(
                f"{sheet}: fold: expected two or more folds, came one, which leaves nothing to train; write others, too"
            )
        return given
    if count > len(training):
        raise ConfigError(
            f"folds: expected at most one per training sample ({len(training)}), came {count}; lower it or leave it out"
        )
    return {name: number % count for number, name in enumerate(training)} if count else {}
