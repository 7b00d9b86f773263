"""What do attention's kernels cost in time and memory as the length grows?

    python benchmarks/attention_kernels.py window bfloat16   # rows of the table, see ROWS
    python benchmarks/attention_kernels.py gpu --device gpu  # JAX and torch on a GPU
    python benchmarks/attention_kernels.py --plot

Forward and backward of one call, batch 1, 8 heads of 64, unless a row says otherwise. Each side
runs in its own process. Runs alternate between the sides, since the speed of a machine changes over
time, and medians are kept; a peak is that of one run above what its process held before, with
libraries warmed up at a short length. JSON lines go to benchmarks/results/attention_kernels.jsonl,
from which `--plot` draws; a row that is measured again replaces its old lines.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import _results
from _attention_sides import SIDES, WINDOW, Case

RESULTS = Path(__file__).parent / "results" / "attention_kernels.jsonl"


@dataclasses.dataclass(frozen=True)
class Row:
    """Cases that are compared, each with the lengths at which it runs."""

    what: str
    cases: dict[Case, tuple[int, ...]]
    rounds: int = 7


def _sides(names, *lengths, **options):
    return {Case(name, **options): lengths for name in names.split()}


def _crossover(sides, *lengths, **options):
    cases = (_sides(sides, *lengths, forward=forward, **options) for forward in (True, False))
    return Row("time", {case: lengths for some in cases for case in some})


SHORT, DOUBLED = (1024, 2048, 4096, 8192), (1024, 2048, 4096, 8192, 16384, 32768)
BERT_BASE = {"batch": 8, "heads": 12}
ROWS = {
    "no_mask": Row("time", _sides("keras ours torch", 4096)),
    "causal": Row("time", _sides("keras ours torch", 4096, mask="causal")),
    "bfloat16": Row("time", _sides("keras ours torch", 4096, dtype="bfloat16")),
    "window": Row("time", _sides("ours", 8192) | _sides("ours", 8192, 16384, mask="window")),
    "xla": Row("time", _sides("ours ours_xla", 4096) | _sides("ours_xla", 4096, mask="window")),
    "dropout": Row(
        "time",
        _sides("ours_layer keras_layer", 4096, forward=True)
        | _sides("ours_layer keras_layer", 4096, forward=True, dropout=0.1),
    ),
    "short": Row("time", _sides("ours_layer keras_layer", 128, **BERT_BASE), rounds=40),
    "short_inference": Row(
        "time", _sides("ours_layer keras_layer", 128, forward=True, **BERT_BASE), rounds=40
    ),
    "layer": Row("time", _sides("ours_layer keras_layer", 4096)),
    "layer_causal": Row("time", _sides("ours_layer keras_layer", 4096, mask="causal")),
    "layer_memory": Row("memory", _sides("ours_layer keras_layer", 8192)),
    "lengths": Row(
        "time",
        _sides("keras", *SHORT)
        | _sides("ours", *DOUBLED)
        | _sides("torch", *DOUBLED[:-1])
        | _sides("ours", *DOUBLED, mask="window"),
        rounds=2,
    ),
    "lengths_causal": Row(
        "time",
        _sides("keras", *SHORT, mask="causal")
        | _sides("ours", *DOUBLED, mask="causal")
        | _sides("torch", *DOUBLED[:-1], mask="causal"),
        rounds=2,
    ),
    "memory": Row(
        "memory",
        _sides("keras", *SHORT)
        | _sides("ours", *DOUBLED)
        | _sides("torch", *DOUBLED[:-1])
        | _sides("ours", *DOUBLED, mask="window"),
    ),
    "memory_causal": Row(
        "memory",
        _sides("keras", *SHORT, mask="causal")
        | _sides("ours", *DOUBLED, mask="causal")
        | _sides("torch", *DOUBLED[:-1], mask="causal"),
    ),
    "crossover_tensorflow": _crossover("ours ours_reference", 512, 1024, 1536, 2048, 2560, 3072),
    "crossover_tensorflow_causal": _crossover(
        "ours ours_reference", 512, 1024, 2048, mask="causal"
    ),
    "crossover_tensorflow_batch": _crossover("ours ours_reference", 256, 512, 768, 1024, batch=8),
    "crossover_jax": _crossover("ours_jax_chunked ours_jax_reference", 512, 1024, 2048, 3072),
    "crossover_torch": _crossover("ours_torch_chunked ours_torch_reference", 512, 1024, 2048, 3072),
    "gpu": Row(
        "time",
        _sides("ours_jax jax ours_torch torch", *DOUBLED, 65536, dtype="bfloat16")
        | _sides("ours_jax jax ours_torch torch", *DOUBLED, 65536, dtype="bfloat16", mask="causal"),
    ),
}


class Child:
    """One case in its own process."""

    def __init__(self, case, what, device):
        environment = os.environ | {
            "KERAS_BACKEND": SIDES[case.side][0],
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        sides = Path(__file__).with_name("_attention_sides.py")
        command = [sys.executable, str(sides), json.dumps(dataclasses.asdict(case)), what]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def ask(self, length):
        """One number for this length; None if the side cannot run it."""
        try:
            self.process.stdin.write(f"{length}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        lines = (line for line in self.process.stdout if line.startswith("RESULT"))
        answer = next(lines, None)
        return None if answer is None else float(answer.split()[1])

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(row, device):
    """Every case of a row, with its lengths and their time and memory."""
    if row.what == "memory":
        return {
            (case, length): _peak(case, length, device)
            for case, lengths in row.cases.items()
            for length in lengths
        }
    children = {case: Child(case, "time", device) for case in row.cases}
    found = {}
    for length in sorted({length for lengths in row.cases.values() for length in lengths}):
        cases = [case for case, lengths in row.cases.items() if length in lengths]
        answers = {case: [] for case in cases}
        for turn in range(row.rounds + 1):
            for case in cases:
                answer = children[case].ask(length)
                if turn and answer is not None:  # the first loads and compiles
                    answers[case].append(answer)
        found |= {(c, length): statistics.median(a) if a else None for c, a in answers.items()}
    for child in children.values():
        child.close()
    return found


def _peak(case, length, device):
    child = Child(case, "memory", device)
    answer = child.ask(length)
    child.close()
    return answer


def _records():
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def keep(name, device):
    """Measure a row, and replace its old lines of this machine."""
    row = ROWS[name]
    number = {"time": "seconds", "memory": "extra_peak_mib"}[row.what]
    where = {"device": _results.device() if device == "gpu" else "cpu", **_results.machine()}
    measured = [
        {"row": name, **dataclasses.asdict(case), "length": length, number: found, **where}
        for (case, length), found in measure(row, device).items()
    ]
    for record in measured:
        print(*(f"{key}={found}" for key, found in record.items() if key not in where), flush=True)
    old = [r for r in _records() if r["row"] != name or _where(r) != _where(where)]
    records = old + measured
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records))


def _where(record):
    return tuple(record[part] for part in ("device", "processor", "can", "cores", "onednn"))


LABELS = {"seconds": "seconds", "extra_peak_mib": "extra peak memory, MiB"}


def plot():
    """Time and peak memory over length, in float32, of the processor that was measured last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 8), layout="constrained")
    panels = (("lengths", "lengths_causal"), ("memory", "memory_causal"))
    rows = {name for pair in panels for name in pair}
    records = [record for record in _records() if record["row"] in rows]
    records = [record for record in records if _where(record) == _where(records[-1])]
    for row, number in enumerate(("seconds", "extra_peak_mib")):
        for axis, name in zip(axes[row], panels[row], strict=True):
            curves = {}
            for record in records:
                if record["row"] == name and record[number]:
                    side = record["side"] + (f", window {WINDOW}" * (record["mask"] == "window"))
                    curves.setdefault(side, []).append((record["length"], record[number]))
            if not curves:  # not measured
                axis.remove()
                continue
            for side, points in curves.items():
                axis.loglog(*zip(*points, strict=True), "o-", label=side)
            lengths = ROWS[name].cases[Case("ours", mask="causal" if "causal" in name else "none")]
            axis.set_xticks(lengths, lengths, minor=False)
            axis.minorticks_off()
            title = "causal" if "causal" in name else "no mask"
            axis.set(title=title, xlabel="length", ylabel=LABELS[number])
            axis.legend()
    figure.suptitle(
        f"Forward and backward, batch 1, 8 heads of 64, float32; {_results.named(records[0])}"
    )
    figure.savefig(RESULTS.with_suffix(".png"), dpi=120)


def main():
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    for name in options.rows:
        if name != "bfloat16" or options.device == "gpu" or _results.has_bfloat16():
            keep(name, options.device)
    if options.plot:
        plot()


if __name__ == "__main__":
    main()
