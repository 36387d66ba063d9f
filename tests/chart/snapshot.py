"""Writes the manifests of the defaults, which the tests compare: python tests/chart/snapshot.py"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    import helm

    answer = helm.run(4, "template", "uniqueid", str(helm.CHART), "-n", "science")
    (HERE / "defaults.yaml").write_text(helm.without_time(answer.stdout))
