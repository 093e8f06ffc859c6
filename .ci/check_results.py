"""Check what `make run` left: a report, and metrics of every evaluated sample that say they are defined."""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def complaints() -> list[str]:
    """Return one line for each thing that is missing or empty."""
    report = RESULTS / "report" / "index.html"
    manifests = sorted(RESULTS.glob("metrics/*/*.json"))
    found = [] if report.is_file() and report.stat().st_size > 0 else [f"{report}: missing or empty"]
    if not manifests:
        found.append(f"{RESULTS / 'metrics'}: no <model>/<sample>.json")
    for path in manifests:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("stage") != "evaluate":
            found.append(f"{path}: expected stage 'evaluate', came {manifest.get('stage')!r}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints()) or None)
