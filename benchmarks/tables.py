"""Writes the stored results into docs/benchmarks.md as tables.

    python benchmarks/tables.py

A table holds the newest line of each case, and for each machine there is one of its own: a number
belongs to its processor.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import _results

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
Cells = tuple[str, dict[str, str]]  # the name of a row, and its cells by the name of the column
NAMES = {
    "keras": "Keras",
    "bert": "BERT",
    "modern_bert": "ModernBERT",
    "keras_hub": "keras-hub",
    "ours_onednn": "ours, TF_ENABLE_ONEDNN_OPTS=1",
    "keras_attn": "this library",
    "ours_layer": "ours",
    "keras_layer": "Keras",
    "ours_beam4": "ours, beam 4",
    "jax_plain": "JAX, plain",
    "jax": "JAX",
    "torch_flash": "torch, flash alone",
}
ENDINGS = {
    "_xla": "XLA",
    "_jax": "JAX",
    "_torch": "torch",
    "_bf16": "bfloat16",
    "_bf16_compile": "bfloat16, compiled",
}
MASKS = {"none": "no mask", "causal": "causal", "window": "window of 256 each side"}
LAYERS = {"layer": "layer", "short": "layer of BERT-base, batch 8", "dropout": "layer"}


def side(name: str) -> str:
    """The name of a side in a table."""
    for ending, words in sorted(ENDINGS.items(), key=lambda item: -len(item[0])):
        if name.endswith(ending) and name not in NAMES:
            return f"{side(name.removesuffix(ending))}, {words}"
    return NAMES.get(name, name)


def attention_kernels(record: dict) -> Cells | None:
    """Seconds or MiB of one side."""
    if record["row"].startswith(("crossover", "xla")):
        return None
    memory, parts = "extra_peak_mib" in record, record["row"]
    row = ["extra memory"] if memory else []
    row += [LAYERS[kind] for kind in LAYERS if parts.startswith(kind)]
    row += ["forward only"] if record["forward"] else []
    row += [f"dropout {record['dropout']}"] if record["dropout"] else []
    row += [record["dtype"]] if record["dtype"] != "float32" else []
    row += [MASKS.get(record["mask"], record["mask"]), f"T = {record['length']}"]
    number = f"{record['extra_peak_mib']:,.0f} MiB" if memory else _time(1e3 * record["seconds"])
    return ", ".join(row), {record["side"]: number}


def startup(record: dict) -> Cells:
    """Both sides, and their ratio in each number."""
    cells = {
        name: ", ".join(_amount(what, number) for what, number in numbers.items())
        for name, numbers in record["median"].items()
    }
    ratios = record["ours_over_keras_hub"].values()
    return record["question"], {
        **cells,
        "ours over keras-hub": ", ".join(f"{r:.2f}" for r in ratios),
    }


def upgrade(record: dict) -> Cells:
    """Step and memory after the upgrade, over those before."""
    before, after = record["before"], record["after"]
    row = f"{record['family']}, {record['backend']}"
    if "milliseconds" not in before or "milliseconds" not in after:
        return row, {f"T = {record['length']}": "does not fit"}
    step = after["milliseconds"] / before["milliseconds"]
    peak = after["peak_mib"] / max(before["peak_mib"], 1)
    return row, {f"T = {record['length']}": f"{step:.2f}; {peak:.2f}"}


def packing(record: dict) -> Cells:
    """Useful tokens a second."""
    row = f"rows of {record['row']}, {record['mean_length']:.0f} tokens on average"
    speed = record["useful_tokens_per_second"]
    return row, {name: f"{number:,}" for name, number in speed.items()}


def cache(record: dict) -> Cells:
    """Milliseconds a token."""
    times = record["milliseconds_a_token"].items()
    return f"batch {record['batch']}", {name: f"{number:.1f} ms" for name, number in times}


def decoding(record: dict) -> Cells:
    """Seconds of each side."""
    row = f"batch {record['batch']}, prompt {record['prompt']}, {record['new']} new tokens"
    return row, {name: f"{number:.2f} s" for name, number in record["seconds"].items()}


def serving_latency(record: dict) -> Cells | None:
    """Median milliseconds of each side."""
    if "milliseconds" not in record:
        return None
    row = f"{record['what']}, {record.get('case', '').replace('x', ' x ')}".removesuffix(", ")
    return row, {name: f"{number:.0f} ms" for name, number in record["milliseconds"].items()}


def encoder(record: dict) -> Cells:
    """Median milliseconds of each side."""
    row = f"{record['case'].replace('x', ' x ')}, float32"
    return row, {name: f"{number:.0f} ms" for name, number in record["milliseconds"].items()}


def pretraining_step(record: dict) -> Cells:
    """Median milliseconds of each side."""
    row = record["policy"]
    return row, {name: f"{number:.0f} ms" for name, number in record["milliseconds"].items()}


def quality(*numbers: str) -> Callable[[dict], Cells]:
    """The quality reached, one number for each seed."""

    def cells(record: dict) -> Cells:
        who = record.get("blocks") or record["library"]
        row = [record["task"]] if "task" in record else [side(who)]
        row += [record["optimizer"].capitalize()] if "optimizer" in record else []
        found = {name: _amount(name, record[name]) for name in numbers if name in record}
        if "task" in record:  # its number is F1 or accuracy
            return f"{row[0]}, {next(iter(found)).replace('_', ' ')}", {
                who: next(iter(found.values()))
            }
        return ", ".join(row), {name.replace("_", " "): cell for name, cell in found.items()}

    return cells


def modern_encoder(record: dict) -> Cells | None:
    """Loss and accuracy of a training, and its seconds, one number for each seed."""
    if record["part"] == "rates":
        return None
    row = f"{record['part']}: {side(record['model'])}"
    return row, {
        "steps": f"{record['steps']:,}",
        "learning rate": f"{record['rate']:g}",
        "masked lm loss": f"{record['masked_lm_loss']:.3f}",
        "masked lm accuracy": _amount("accuracy", record["masked_lm_accuracy"]),
        "time": _time(1000 * record["seconds"]),
    }


def gpu(record: dict) -> Cells | None:
    """What the parts of gpu.py found, where they ran."""
    case, part = record["case"], record["part"]
    if part == "kernels":
        exact = [error for error in record["errors"].values() if isinstance(error, float)]
        row = f"largest relative error: {case['kernel']} kernel, {case['dtype']}"
        return (row, {case["backend"]: f"{max(exact):.1e}"}) if exact else None
    if "seconds" not in record:
        return None
    if part == "attention":
        times = [t if isinstance(t, str) else f"{1e3 * t:.2f}" for t in record["seconds"].values()]
        lengths = ", ".join(f"{int(length):,}" for length in record["seconds"])
        row = f"attention, {MASKS[case['mask']]}, ms at T = {lengths}"
        return row, {case["side"]: ", ".join(t if t[0].isdigit() else "none" for t in times)}
    if part == "decoding":
        row = f"decoding, batch {case['batch']}"
        side = case["side"].replace("hub_jax", "hub")
        return row, {side: f"{record['tokens_a_second']:,.0f} tokens a second"}
    row = f"training BERT-{case['size']}, {case['batch']} x {case['length']}"
    used = f"{record['utilisation']:.0%}".replace("%", " %")
    row += f", dropout {case['dropout']}"
    return row, {case["side"]: f"{1e3 * record['seconds']:.0f} ms, {used}"}


QUESTIONS: dict[str, Callable[[dict], Cells | None]] = {
    **{f.__name__: f for f in (attention_kernels, startup, upgrade, packing, cache, decoding)},
    **{f.__name__: f for f in (serving_latency, encoder, pretraining_step, modern_encoder)},
    "gpu": gpu,
    "pretraining_quality": quality(
        "masked_lm_accuracy", "masked_lm_perplexity", "next_sentence_accuracy"
    ),
    "generation_quality": quality("perplexity"),
    "translation_quality": quality("bleu", "perplexity"),
    "finetuning": quality("f1", "accuracy"),
}


def table(question: str) -> str:
    """The newest lines of a question as Markdown, a table for each machine."""
    machines: dict[str, dict[tuple, dict[str, dict]]] = {}
    path = RESULTS / f"{question}.jsonl"
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        named = QUESTIONS[question](record)
        if named is not None:
            row, cells = named[0], {side(name): cell for name, cell in named[1].items()}
            # Sides that ran together stay together, so that a row has comparable numbers.
            key = (row, *cells) if len(cells) > 1 else (row,)
            columns = machines.setdefault(_results.named(record), {}).setdefault(key, {})
            for column, cell in cells.items():
                # One cell for each seed; without seeds the newest line stays.
                columns.setdefault(column, {})[record.get("seed")] = cell
    return "\n\n".join(_markdown(machine, rows) for machine, rows in machines.items())


def _markdown(machine: str, rows: dict[tuple, dict[str, dict]]) -> str:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [f"| {machine} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for key in sorted(rows, key=lambda key: _natural(key[0])):
        filled = [", ".join(rows[key].get(column, {}).values()) for column in columns]
        lines.append(f"| {key[0]} | {' | '.join(filled)} |")
    return "\n".join(lines)


def _natural(row: str) -> list[tuple[str, int]]:
    """A key that sorts by words and by the size of numbers."""
    return [(word, int(part or 0)) for word, part in re.findall(r"(\D+)(\d*)", row)]


def _amount(what: str, number: float) -> str:
    if what == "seconds":
        return _time(1000 * number)
    if what == "import_tensorflow":
        return f"{_time(1000 * number)} to import TensorFlow"
    if what == "size_over_weights":
        return f"{number:.2f} times the weights"
    if what.endswith(("accuracy", "f1")):
        return f"{number:.1%}".replace("%", " %")
    return f"{number:,.0f} {what}" if what in ("nodes",) else f"{number:,.1f}"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def page(text: str) -> str:
    """The text with the table between each pair of markers replaced."""

    def made(mark: re.Match) -> str:
        return f"<!-- table: {mark[1]} -->\n{table(mark[1])}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
