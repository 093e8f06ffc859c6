"""Whether a line for people says what to do."""

import re

# How a clause begins that says it.
VERBS = (
    "ask check choose convert copy correct delete did export give install leave lower make mark name put read remove "
    "rename replace run save see set use write"
)


def has_remedy(line: str) -> bool:
    """Whether a clause of the line begins with one of the verbs."""
    clauses = re.split(r"[;,] (?:or |and )?", line.strip())
    return any(clause.split()[0] in VERBS.split() for clause in clauses[1:])
