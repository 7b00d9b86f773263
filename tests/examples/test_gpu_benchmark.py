"""The command that measures on a GPU runs on a CPU, without TensorFlow, and can be continued."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PEERS = ("keras_hub", "transformers")

pytestmark = pytest.mark.backends("jax", "torch", reason="it measures these")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    return gpu


@pytest.mark.parametrize("part", ["kernels", "training", "attention", "decoding"])
def test_each_of_our_cases_runs(gpu, part):
    import keras

    cases = [c for c in gpu.cases(part, tiny=True) if c["backend"] == keras.backend.backend()]
    ours = [case for case in cases if not case.get("side", "").startswith(PEERS)]
    assert ours
    for case in ours:
        found = getattr(gpu._gpu_cases, part)(case, tiny=True)
        if part == "kernels":
            exact = [error for error in found["errors"].values() if isinstance(error, float)]
            assert max(exact, default=0) < 2e-6
            assert exact or case["kernel"] == "fused"
        elif part == "attention":
            assert found["seconds"][64] > 0
        else:
            assert found["seconds"] > 0


@pytest.mark.backends("jax", reason="it starts processes of its own, on JAX")
def test_the_benchmark_continues_without_network_or_tensorflow(gpu, tmp_path, monkeypatch):
    for name in ("tensorflow", "keras_hub"):
        text = f"raise ModuleNotFoundError('No module named {name}')"
        (tmp_path / f"{name}.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "brought-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought.py", "")
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n"),
            ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"brought-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cases = [
        {"backend": "jax", "side": "jax", "mask": "none"},
        {"backend": "jax", "side": "keras_hub_jax", "batch": 1},
    ]
    given = {"attention": cases[:1], "decoding": cases[1:]}
    monkeypatch.setattr(gpu, "cases", lambda part, tiny: given[part])
    output = ["--tiny", "--output", str(tmp_path / "found")]
    for wheels in (["--wheels", str(tmp_path)], []):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "attention", "decoding", *output, *wheels])
        gpu.main()
    lines = (tmp_path / "found" / "gpu.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # What could not run is tried again.
    assert [record["part"] for record in records] == ["attention", "decoding", "decoding"]
    assert records[0]["seconds"]["64"] > 0
    assert records[1]["skipped"] == "ModuleNotFoundError: No module named keras_hub"
    assert (tmp_path / "found" / "gpu.png").is_file()
    assert (tmp_path / "found" / "site" / "brought.py").is_file()
