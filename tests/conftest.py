"""Settings of the whole suite; markers are declared in setup.cfg.

`KERAS_BACKEND` chooses the backend of a run. A test that does not apply to some says so with
`@pytest.mark.backends("tensorflow", reason="...")` and is deselected elsewhere, with a
count in the summary; `slow` tests run only with `-m slow`, and so do `slow_on("jax")` tests on JAX;
`shared_data` tests run where the folder of shared data (KERAS_ATTN_SHARED, or `shared` beside the
repository) exists; `gpu` and `tpu` tests run where JAX or torch may see one:

    CUDA_VISIBLE_DEVICES=0 JAX_PLATFORMS=cuda KERAS_BACKEND=jax python -m pytest tests/ops/kernels
    JAX_PLATFORMS=tpu KERAS_BACKEND=jax python -m pytest tests/ops/kernels
"""

import gc
import os
from pathlib import Path

import pytest

# Two workers share two cores: each takes one thread. Set before a backend is imported.
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # tolerances of 1e-6: no TF32
if os.environ["KERAS_BACKEND"] == "jax":  # eight devices, for tests/test_distribution.py
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    )
# Compiling is most of a run on JAX, and tests compile many programs that others have compiled.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

BACKEND = os.environ["KERAS_BACKEND"]
LONG = ("tests/examples", "tests/export")  # they start processes
# On JAX, which compiles each, tests/contract runs these layers, compares them with TensorFlow, and
# trains and reloads these models; their own tests are slow there.
SLOW_ON_JAX = (
    "tests/layers/attention/test_attention_decoder",  # and its cell
    "tests/layers/attention/test_bahdanau",
    "tests/layers/attention/test_drop_in",
    "tests/layers/attention/test_hard",
    "tests/layers/attention/test_luong",
    "tests/layers/attention/test_multi_head_attention",
    "tests/layers/attention/test_multi_head_cross",
    "tests/layers/attention/test_multi_head_self",
    "tests/layers/block/",
    "tests/layers/embedding/",
    "tests/layers/head/test_language_model_head",
    "tests/layers/head/test_masked_lm_head",
    "tests/layers/head/test_sequence_pooling",
    "tests/layers/head/test_task_heads",
    "tests/layers/position/",
    "tests/models/test_bert",  # and its tasks
    "tests/models/test_comparison",
    "tests/models/test_exchange",  # test_upgrade runs
    "tests/models/test_first_position",
    "tests/models/test_gpt",
    "tests/models/test_keras_attention",
    "tests/models/test_modern_bert",
    "tests/models/test_parts",
    "tests/models/test_rebuild",
    "tests/models/test_transformer",
)
gc.set_threshold(50_000, 20, 20)  # graphs and programs are many objects that stay


def pytest_configure(config):
    """Import Keras where tests run: the process that hands them to workers is ready without it."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.keras_fixtures")


def shared_folder(root: Path) -> Path:
    """The folder of shared data, which may be missing."""
    return Path(os.environ.get("KERAS_ATTN_SHARED", root.parent / "shared"))


def pytest_collection_finish(session):
    """Exclude the imported modules from garbage collection, which Keras runs in `quantize`."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config, items):
    """Deselect what cannot run here, mark what is slow here, and begin with long files."""
    has_data = (shared_folder(config.rootpath) / "data").is_dir()
    gpu = os.environ["CUDA_VISIBLE_DEVICES"] != "-1"
    tpu = "tpu" in os.environ["JAX_PLATFORMS"].split(",")
    kept, dropped = [], []
    for item in items:
        contract_only = BACKEND == "jax" and item.nodeid.startswith(SLOW_ON_JAX)
        if contract_only or any(BACKEND in mark.args for mark in item.iter_markers("slow_on")):
            item.add_marker("slow")
        marker = item.get_closest_marker("backends")
        if marker is not None and not marker.kwargs.get("reason"):
            raise pytest.UsageError(f"{item.nodeid}: the marker `backends` needs a reason")
        other_backend = marker is not None and BACKEND not in marker.args
        no_data = item.get_closest_marker("shared_data") is not None and not has_data
        no_gpu = item.get_closest_marker("gpu") is not None and not gpu
        no_tpu = item.get_closest_marker("tpu") is not None and not tpu
        (dropped if other_backend or no_data or no_gpu or no_tpu else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    # Two workers take file after file: the longest ones start first, so that both end together.
    items[:] = sorted(kept, key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session")
def shared(pytestconfig):
    """The folder of shared data; use with the marker `shared_data`."""
    return shared_folder(pytestconfig.rootpath)


@pytest.fixture(scope="module")
def frozen_heap():
    """Exclude what exists from garbage collection: Keras runs it for each layer it quantizes."""
    gc.collect()
    gc.freeze()
