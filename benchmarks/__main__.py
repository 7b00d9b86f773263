"""All speed benchmarks in one command.

    python -m benchmarks --quick     # one size of each benchmark
    python -m benchmarks             # all sizes
    python -m benchmarks encoder startup

Each question is a script of this folder with sides in their own processes, interleaved and warmed
up; it appends medians, versions and the processor to benchmarks/results/. A script that fails is
named at the end, and the others still run. On two cores without AVX-512 the quick run took 8.5
minutes, and the questions of the whole but the last 52 minutes, in two runs.
`tools/compare_results.py` says what got slower. The comparisons of quality (pretraining_quality,
translation_quality, generation_quality, finetuning, modern_encoder) train for hours and are run by
hand.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
# Name: arguments of the full run, arguments of the quick run.
QUESTIONS = {
    "startup": ([], ["build", "trace", "--rounds", "1"]),
    "encoder": ([], ["--cases", "8x128", "--rounds", "3", "--sides", "ours", "keras_hub"]),
    "pretraining_step": ([], ["--policies", "float32", "--rounds", "1"]),
    "attention_kernels": (
        ["no_mask", "causal", "bfloat16", "window", "layer", "layer_causal"],
        ["causal"],
    ),
    "decoding": (
        ["--sides", "ours", "ours_xla", "keras_hub", "keras_hub_xla", "--rounds", "3"],
        ["--rounds", "1"],
    ),
    "cache": ([], ["--batches", "1"]),
    "upgrade": (
        ["--lengths", "512", "--rounds", "3"],
        ["--families", "user", "BERT", "--lengths", "512", "--backends", "tensorflow"],
    ),
    "runtimes": ([], ["--models", "BERT encoder", "GPT"]),
    "packing": ([], ["--paragraphs", "128", "--rounds", "1"]),
    "serving_latency": (
        ["classify", "--rounds", "20"],
        ["classify", "--cases", "1x128", "--sides", "ours", "keras_hub", "--rounds", "5"],
    ),
}


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="one size of each")
    options = parser.parse_args()
    unknown = sorted(set(options.questions) - set(QUESTIONS))
    if unknown:
        parser.error(f"a question must be one of {', '.join(QUESTIONS)}, got {unknown[0]}")
    failed = []
    for name in options.questions or QUESTIONS:
        arguments = QUESTIONS[name][options.quick]
        print(f"\n{name} {' '.join(arguments)}", flush=True)
        start = time.perf_counter()
        command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
        if subprocess.run(command, cwd=FOLDER.parent, check=False).returncode:
            failed.append(name)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
