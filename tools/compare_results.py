"""Shows which results got slower than the stored ones, by more than the spread of the machine.

    python tools/compare_results.py            # the working tree's lines against the last commit's
    python tools/compare_results.py --against v0.1.0 --spread 0.15

Compares ratios between sides, never seconds: two runs of one program on one machine differ by more
than a change of the code. Only lines of the same question, case and processor are compared.
"""

import argparse
import json
import subprocess
from pathlib import Path

RESULTS = Path("benchmarks/results")
# What a line was asked; the rest of it is what came out.
ASKED = ("question", "case", "what", "row", "side", "batch", "prompt", "new", "length", "mask")
RATIOS = ("ours_over_keras_hub", "over_ours", "speed_of_first", "throughput_of_first")


def lines(text: str) -> dict[tuple, dict]:
    """The last line of each question, by what was asked and where."""
    found = {}
    for record in map(json.loads, text.splitlines()):
        where = record.get("processor") or record.get("device")
        found[(where, *(str(record.get(name)) for name in ASKED))] = record
    return found


def ratios(record: dict) -> dict[str, float]:
    """How many times slower or larger than the peer ours is, by the peer's or the number's name."""
    found = dict(record.get("ours_over_keras_hub", {}))
    for name in RATIOS[1:]:
        found |= {f"ours over {peer}": 1 / r for peer, r in record.get(name, {}).items() if r}
    return found


def main() -> None:
    """Print each ratio that grew by more than the spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD", help="a commit, defaults to the last")
    parser.add_argument("--spread", type=float, default=0.1, help="that counts as noise")
    options = parser.parse_args()
    slower = compared = 0
    for path in sorted(RESULTS.glob("*.jsonl")):
        command = ["git", "show", f"{options.against}:{path.as_posix()}"]
        kept = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        old = lines(kept)
        for asked, record in lines(path.read_text(encoding="utf-8")).items():
            before = ratios(old.get(asked, {}))
            for name, ratio in ratios(record).items():
                if name in before:
                    compared += 1
                    if ratio > before[name] * (1 + options.spread):
                        slower += 1
                        what = " ".join(part for part in asked[1:] if part != "None")
                        print(f"{path.stem} {what}: {name} {before[name]:.2f} -> {ratio:.2f}")
    print(f"{compared} ratios compared, {slower} grew by more than {options.spread:.0%}")


if __name__ == "__main__":
    main()
