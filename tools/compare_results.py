"""Shows which results got slower than the stored ones, by more than the spread of the machine.

    python tools/compare_results.py            # the working tree's lines against the last commit's
    python tools/compare_results.py --against v0.1.0 --spread 0.15

Compares ratios between sides, never seconds: two runs of one program on one machine differ by more
than a change of the code. Only lines of the same question, case and machine are compared.
"""

import argparse
import json
import subprocess
from pathlib import Path

RESULTS = Path("benchmarks/results")
# What a line was asked; the rest of it is what came out.
ASKED = (
    *("question", "case", "what", "row", "policy", "backend", "family", "batch", "prompt", "new"),
    *("length", "mask", "dtype", "forward", "dropout"),
)
WHERE = ("device", "processor", "can", "cores", "onednn")
SPEEDS = ("over_ours", "speed_of_first", "throughput_of_first", "times_padded")


def ratios(text: str) -> dict[tuple, dict[str, float]]:
    """By how much ours is slower or larger than each other side, in the last line of each case."""
    found: dict[tuple, dict[str, float]] = {}
    seconds: dict[tuple, dict[str, float]] = {}
    for record in map(json.loads, text.splitlines()):
        case = tuple(str(record.get(name)) for name in (*WHERE, *ASKED))
        if "side" in record:  # one line for each side
            seconds.setdefault(case, {})[record["side"]] = record.get("seconds") or 0
            found[case] = _over_others(seconds[case])
        elif "before" in record:
            before, after = record["before"], record["after"]
            if "milliseconds" in before and "milliseconds" in after:
                found[case] = {"upgraded": after["milliseconds"] / before["milliseconds"]}
        else:
            found[case] = dict(record.get("ours_over_keras_hub", {}))
            for name in SPEEDS:
                found[case] |= {f"over {s}": 1 / r for s, r in record.get(name, {}).items() if r}
    return found


def _over_others(seconds: dict[str, float]) -> dict[str, float]:
    ours = seconds.get("ours", 0)
    return {f"over {side}": ours / other for side, other in seconds.items() if other and ours}


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
        old = ratios(kept)
        for case, now in ratios(path.read_text(encoding="utf-8")).items():
            before = old.get(case, {})
            for name in now.keys() & before.keys():
                compared += 1
                if now[name] > before[name] * (1 + options.spread):
                    slower += 1
                    what = " ".join(part for part in case[len(WHERE) :] if part != "None")
                    print(f"{path.stem} {what}: {name} {before[name]:.2f} -> {now[name]:.2f}")
    print(f"{compared} ratios compared, {slower} grew by more than {options.spread:.0%}")


if __name__ == "__main__":
    main()
