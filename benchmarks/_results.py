"""Where the benchmarks keep what they measure."""

import json
from pathlib import Path
from typing import Any


def keep(record: dict[str, Any], path: Path) -> None:
    """Print the record, and append it to the file as a line of JSON."""
    line = json.dumps(record)
    print(line, flush=True)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")
