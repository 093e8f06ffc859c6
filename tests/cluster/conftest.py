"""A cluster for the tests of each file."""

from collections.abc import Iterator

import pytest

from clusterprojects import cluster_in_tmp
from private_slurm import PrivateSlurm


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateSlurm]:
    """A cluster for all tests of this file."""
    with cluster_in_tmp() as one:
        yield one
