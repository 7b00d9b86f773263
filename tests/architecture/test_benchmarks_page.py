"""docs/benchmarks.md is generated from the stored results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_match_the_stored_results(monkeypatch):
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as for a script of that folder
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    assert tables["page"](text) == text, "run: python benchmarks/tables.py"
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("<!-- table: ")}
    kept = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.jsonl")}
    assert shown == kept - {"runtimes"}  # a guide of its own
