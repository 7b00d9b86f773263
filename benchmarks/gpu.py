"""What kernels and models do on a GPU, in four parts of at most eight minutes.

    python benchmarks/gpu.py kernels training attention decoding
    python benchmarks/gpu.py kernels --wheels FOLDER     # a machine without network
    python benchmarks/gpu.py training --tiny             # on a CPU, in seconds: does it run?

It needs JAX, torch and Keras, no TensorFlow. With --wheels, each wheel of a folder (Keras, and what
it needs beyond that machine) is installed first, in a folder next to the results, without network.
keras-hub and transformers are skipped by name where they are not installed.

Each case runs in its own process and appends a line of JSON to benchmarks/results/gpu.jsonl, with
`skipped` and the reason if it could not run. The same command again runs the cases that have no
result on this device yet; the end of each part draws gpu.png.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import _attention_sides
import _gpu_cases
import _results

ROOT = Path(__file__).parent.parent
PARTS = ("kernels", "training", "attention", "decoding")
SECONDS = 480  # of a part
# Dense bfloat16 products a second, as NVIDIA states them; the first name that fits.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def cases(part, tiny):
    """What a part runs, each a dict; `backend` is that of Keras."""
    if part == "kernels":
        return [
            {"backend": backend, "kernel": kernel, "dtype": dtype}
            for backend in ("jax", "torch")
            for kernel in ("reference", "chunked", "fused")
            for dtype in (("float32",) if tiny else ("float32", "bfloat16"))
        ]
    if part == "training":
        sides = {"ours_jax": "jax", "ours_torch": "torch"}
        sides |= {"keras_hub": "jax", "transformers": "torch"}
        shapes = [("large", 512, 32), ("base", 128, 128), ("large", 128, 128), ("base", 512, 32)]
        return [
            {"backend": backend, "side": side, "dropout": dropout}
            | {"size": size, "length": length, "batch": batch}
            for size, length, batch in ([("tiny", 8, 2)] if tiny else shapes)
            for dropout in (0.1, 0.0)
            for side, backend in sides.items()
        ]
    if part == "attention":
        return [
            {"backend": _attention_sides.SIDES[side][0], "side": side, "mask": mask}
            for mask in ("none", "causal")
            for side in ("ours_jax", "jax", "jax_plain", "ours_torch", "torch", "torch_flash")
        ]
    return [
        {"backend": backend, "side": side, "batch": batch}
        for batch in ((1,) if tiny else (1, 8))
        for side, backend in (
            *(("ours_jax", "jax"), ("ours_torch", "torch")),
            *(("keras_hub_jax", "jax"), ("transformers", "torch")),
        )
    ]


def run_part(part, options, where):
    """Run what has no result yet, each in a process of its own, until the time is over."""
    path, end = options.output / "gpu.jsonl", time.monotonic() + SECONDS
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = [{k: r.get(k) for k in ("part", "device", "case")} for r in kept if "skipped" not in r]
    for case in cases(part, options.tiny):
        asked = {"part": part, "device": where, "case": case}
        if asked in done:
            continue
        environment = {"KERAS_BACKEND": case["backend"], "TF_CPP_MIN_LOG_LEVEL": "3"}
        places = [str(ROOT), str(options.output / "site"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        command = [sys.executable, __file__, part, "--worker", json.dumps(case)]
        command += ["--tiny"] * options.tiny
        try:
            ran = subprocess.run(
                command,
                env=os.environ | environment,
                capture_output=True,
                text=True,
                timeout=end - time.monotonic(),
                check=False,
            )
        except (subprocess.TimeoutExpired, ValueError):
            print(f"{part}: {SECONDS} s are over at {case}; the same command goes on", flush=True)
            return
        answers = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
        if answers:
            found = json.loads(answers[0].removeprefix("RESULT "))
        else:
            print(ran.stderr[-1500:], file=sys.stderr)
            found = {"skipped": (ran.stderr.strip().splitlines() or ["it ended"])[-1][:300]}
        peak = next((peak for name, peak in PEAKS.items() if name in where), None)
        if peak and "flop_a_second" in found:
            found["utilisation"] = round(found["flop_a_second"] / peak, 3)
        _results.keep({**asked, **found, **_results.machine()}, path)


def plot(path):
    """Attention's time against length, and the utilisation of each training step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [json.loads(line) for line in path.read_text().splitlines()]
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5), layout="constrained")
    for axis, mask in zip(axes, ("none", "causal"), strict=False):
        curves, bars = {}, {}
        for record in records:
            case = record["case"]
            if record["part"] == "attention" and case["mask"] == mask and "seconds" in record:
                seconds = record["seconds"].items()
                curves[case["side"]] = {int(n): s for n, s in seconds if not isinstance(s, str)}
            if record["part"] == "training" and "flop_a_second" in record:
                name = f"{case['size']} {case['length']}, {case['dropout']}: {case['side']}"
                bars[name] = record["flop_a_second"] / 1e12
        for side, points in curves.items():
            axis.loglog(*zip(*sorted(points.items()), strict=True), "o-", label=side)
        axis.set(title=f"attention, {mask}", xlabel="length", ylabel="seconds")
        if curves:
            axis.legend()
    names = sorted(bars, reverse=True)
    axes[2].barh(names, [bars[name] for name in names])
    axes[2].set(title="training: size, length, dropout", xlabel="useful TFLOP a second")
    figure.savefig(path.with_suffix(".png"), dpi=120)


def main():
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install first")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run = getattr(_gpu_cases, options.parts[0])
        found = run(json.loads(options.worker), options.tiny)
        print(f"\nRESULT {json.dumps(found)}", flush=True)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    if options.wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        pip += ["--upgrade", "--target", str(options.output / "site")]
        subprocess.run([*pip, *map(str, sorted(options.wheels.glob("*.whl")))], check=True)
    for part in options.parts:
        run_part(part, options, _results.device())
        plot(options.output / "gpu.jsonl")


if __name__ == "__main__":
    main()
