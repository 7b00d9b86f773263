"""Invalid input of `publish` raises and leaves no files."""

import json
import re
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # registers the operations of the offending preprocessor

from keras_attn import data, export, models
from keras_attn.export import compatibility, isolation
from tests.export import small
from tests.export.small import LENGTH, SIZE, VOCABULARY, masked_lm_layers

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")


class Trimmed(data.MaskedLMPreprocessor):
    """Packs with an operation that servers up to 2.19 lack."""

    def call(self, text):
        tokens = tensorflow_text.RoundRobinTrimmer(self.length - 2).trim([self.tokenizer(text)])
        return self._pack(tokens)


def test_an_operation_missing_on_the_server_raises(model, tmp_path, checked_here):
    layers = masked_lm_layers()
    layers["preprocessor"] = Trimmed(VOCABULARY, length=LENGTH)
    with pytest.raises(ValueError, match="2.19 cannot run .* no operation TFText>RoundRobin") as e:
        export.publish(
            model, tmp_path / "bert", **layers, server="2.19", signatures=["serving_default"]
        )
    assert "node" in str(e.value)
    assert not (tmp_path / "bert").exists()
    assert "TFText>RoundRobinTrim" in compatibility.operations_of("2.20")


def test_outputs_that_differ_from_keras_raise(tmp_path, checked_here):
    state = {"calls": 0}

    def unstable(numbers):
        state["calls"] += 1
        return {"out": numbers + state["calls"]}

    own = export.Signature(
        unstable, {"numbers": tf.TensorSpec([None], tf.float32)}, [{"numbers": [1.0]}]
    )
    with pytest.raises(ValueError, match="'unstable', output 'out' differs from Keras by"):
        export.publish(small.tiny(), tmp_path / "unstable", functions={"unstable": own})
    assert not (tmp_path / "unstable").exists()


def test_an_output_without_a_batch_axis_raises(tmp_path, checked_here):
    own = export.Signature(
        lambda numbers: {"sum": tf.reduce_sum(numbers)},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0, 2.0]}],
    )
    with pytest.raises(ValueError, match="'total', output 'sum' must have the batch first"):
        export.publish(small.tiny(), tmp_path / "total", functions={"total": own})


def test_an_untracked_resource_raises(tmp_path, checked_here):
    variable = tf.Variable(2.0)
    own = export.Signature(
        lambda numbers: {"out": numbers * variable},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0]}],
    )
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)
    untracked = export.Signature(
        lambda text: {"out": table.lookup(text)},
        {"text": tf.TensorSpec([None], tf.string)},
        [{"text": ["a"]}],
    )
    export.publish(small.tiny(), tmp_path / "tracked", functions={"variable": own})
    with pytest.raises(ValueError, match="uses what `model` does not track"):
        export.publish(small.tiny(), tmp_path / "untracked", functions={"table": untracked})


def warmup(batches):
    return {"warmup": {"serving_default": batches}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": -1}, "`version` must be an integer from 0 to 9223372036854775807, got -1"),
        ({"version": True}, "`version` must be an integer from 0 to 9223372036854775807, got True"),
        ({"keep": 0}, "`keep` must be None or an integer from 1, got 0"),
        ({"server": "1.15"}, "`server` must be a ModelServer version from 2.12, 2.19, 2.20 on"),
        ({"server": "new"}, "`server` must be a ModelServer version"),
        ({"functions": {"__saved_model_init_op": None}}, "`functions` must have names of"),
        ({"functions": {"a/b": None}}, "got 'a/b'"),
        ({"functions": {"a": None}}, "`functions` must have a Signature for 'a', got None"),
        ({"functions": 3}, "`functions` must be a dict or None, got 3"),
        ({"generation": 3}, "`generation` must be a Generation or None, got 3"),
        ({"signatures": 3}, "`signatures` must be a list of names or None, got 3"),
        ({"signatures": ["nothing"]}, "`signatures` must be among serving_default, got 'nothing'"),
        ({"compute_dtype": "int8"}, "`compute_dtype` must be float32, bfloat16 or float16"),
        ({"keep": "2"}, "`keep` must be None or an integer from 1, got '2'"),
        ({"keep": 1.0}, "`keep` must be None or an integer from 1, got 1.0"),
        ({"version": 2**63}, "from 0 to 9223372036854775807, got 9223372036854775808"),
        ({"warmup": {"other": []}}, "`warmup` must have keys among serving_default, got 'other'"),
        ({"warmup": [{}]}, "`warmup` must be a dict of lists, got list"),
        (warmup({"numbers": [[1, 2, 3]]}), "must have a list of batches for .*, got dict"),
        (warmup([[1, 2, 3]]), "batch 0 must be a dict of inputs, got list"),
        (warmup([{"words": [[1, 2, 3]]}]), r"must have the inputs \['numbers'\], got \['words'\]"),
        (
            warmup([{"numbers": [[1, 2, 3]]}, {"numbers": [[1, 2]]}]),
            r"`warmup` of 'serving_default', batch 1, input 'numbers' must be float32 \[\?, 3\], "
            r"got int64 \[1, 2\]",
        ),
        (warmup([{"numbers": [["a", "b", "c"]]}]), r"float32 \[\?, 3\], got string \[1, 3\]"),
        (warmup([{"numbers": [[1, 2, 3], [4]]}]), r"float32 \[\?, 3\]: .*inhomogeneous"),
        ({"sample": {"numbers": 1}}, r"`sample`, input 'numbers' must be float32 \[\?, 3\], got"),
    ],
)
def test_invalid_arguments_raise(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.publish(small.tiny(), tmp_path / "bad", **arguments)
    assert not (tmp_path / "bad").exists()


def test_an_existing_version_raises(tmp_path, checked_here):
    export.publish(small.tiny(), tmp_path)
    with pytest.raises(ValueError, match="`version` must be new, got 1, which"):
        export.publish(small.tiny(), tmp_path, version=1)


def test_a_tokenizer_of_another_vocabulary_size_raises(tmp_path):
    layers = masked_lm_layers()
    other = models.bert.pretraining(SIZE, vocabulary_size=11)
    with pytest.raises(ValueError, match="model's vocabulary of 11 tokens, got 15"):
        export.publish(other, tmp_path / "other", **layers)


def test_a_base_dir_that_is_not_writable_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match="`base_dir` must be a writable folder with space left, got .*file"
    ):
        export.publish(small.tiny(), tmp_path / "file")


@pytest.mark.parametrize("base_dir", [None, 3, ""])
def test_a_base_dir_that_is_not_a_path_raises(base_dir):
    with pytest.raises(ValueError, match=f"`base_dir` must be a path, got {base_dir!r}"):
        export.publish(small.tiny(), base_dir)


def test_files_of_the_user_are_kept(tmp_path, checked_here):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "request.json").write_text("mine too")
    inputs = keras.Input((900,), name="numbers")  # too many for one line
    for _ in range(2):
        path = export.publish(keras.Model(inputs, inputs * 2.0), tmp_path).path
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "request.json").read_text() == "mine too"
    guide = (tmp_path / "SERVING.md").read_text()
    assert "Version 2 was written" in guide
    (body,) = re.findall(r"-d @(\S+)", guide)
    assert np.shape(json.loads((tmp_path / body).read_text())["inputs"]["numbers"]) == (1, 900)
    assert path == (tmp_path / body).parents[1]


def test_an_unbuilt_model_raises(tmp_path):
    with pytest.raises(ValueError, match="`model` must be functional, or sequential and built"):
        export.publish(keras.Sequential([keras.layers.Dense(2)]), tmp_path / "unbuilt")


def test_a_fresh_process_reports_unknown_folders_signatures_and_inputs(tmp_path, monkeypatch):
    own = export.Signature(
        lambda numbers: {"out": numbers},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0]}],
    )
    with monkeypatch.context() as patched:
        patched.setattr(isolation, "FreshProcess", small.ThisProcess)
        made = export.publish(small.tiny(), tmp_path / "tiny", functions={"own": own})
    numbers = {"numbers": np.ones(1, "float32")}
    requests = [("nothing", numbers, True), ("own", {"words": [1]}, True)]
    with isolation.FreshProcess() as process:
        unknown, misnamed = process.run(made.path, requests)
        with pytest.raises(RuntimeError, match="does not run in a fresh process"):
            process.run(tmp_path, [("own", numbers, True)])
    assert "no signature 'nothing', there are own, serving_default" in unknown
    assert "__" not in unknown
    assert "own takes numbers, got words" in misnamed


def test_a_failed_publish_removes_no_version(tmp_path, monkeypatch, checked_here):
    export.publish(small.tiny(), tmp_path)
    monkeypatch.setattr(small.ThisProcess, "run", lambda *_: ["it is broken"])
    with pytest.raises(ValueError, match="'serving_default' fails in a fresh process.*: it is bro"):
        export.publish(small.tiny(), tmp_path, keep=1)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["1"]


def test_a_full_disk_raises_and_leaves_no_files(tmp_path):
    size = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, size[1]))
    try:
        with pytest.raises(
            ValueError, match="`base_dir` must be a writable folder with space left, got"
        ):
            export.publish(small.tiny(), tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, size)
    assert not (tmp_path / "full").exists()


def test_a_failing_warm_up_batch_raises(tmp_path, checked_here):
    def picky(numbers):
        with tf.control_dependencies([tf.debugging.assert_less(numbers, 9.0, "too large")]):
            return {"same": tf.identity(numbers)}

    own = export.Signature(
        picky, {"numbers": tf.TensorSpec([None], tf.float32)}, [{"numbers": [1.0]}]
    )
    batches = [{"numbers": [2.0]}, {"numbers": [3.0, 10.0]}]
    message = r"(?s)'picky' fails in a fresh process with numbers \[2\]: .*too large"
    with pytest.raises(ValueError, match=message):
        export.publish(
            small.tiny(), tmp_path / "m", functions={"picky": own}, warmup={"picky": batches}
        )
    assert not (tmp_path / "m").exists()


def test_a_version_above_the_limit_of_the_server_raises(tmp_path, checked_here):
    last = export.publish(small.tiny(), tmp_path, version=2**63 - 1)
    with pytest.raises(ValueError, match="from 0 to 9223372036854775807, got 92233720368547758"):
        export.publish(small.tiny(), tmp_path)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [last.path]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: keras.ops.sum(x), r"output 'sum' must have the batch first, got \(\)"),
        (lambda x: keras.ops.fft((x, x)), None),
        (
            lambda x: keras.layers.Dense(2, name="a b")(x),
            "`model` must have layers with names .*'a b'",
        ),
        (lambda x: tf_only(x), "`model` must be functional"),
    ],
    ids=["scalar", "two tensors", "layer name", "subclass"],
)
def test_models_are_published_or_raise(build, message, tmp_path, checked_here):
    inputs = keras.Input((4,), name="numbers")
    outputs = build(inputs)
    model = outputs if isinstance(outputs, keras.Model) else keras.Model(inputs, outputs)
    if message is None:
        assert len(export.publish(model, tmp_path / "m").signatures["serving_default"][1]) == 2
    else:
        with pytest.raises(ValueError, match=message):
            export.publish(model, tmp_path / "m")


def tf_only(_):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    model = Own()
    model(keras.ops.ones((1, 4)))
    return model


def test_deprecated_forms_of_signatures_still_work(tmp_path, checked_here):
    own = export.Signature(
        lambda numbers: {"twice": numbers * 2},
        {"numbers": tf.TensorSpec([None], tf.float32)},
        [{"numbers": [1.0]}],
    )
    with pytest.warns(DeprecationWarning, match="give a dict as `functions`"):
        made = export.publish(small.tiny(), tmp_path / "m", signatures={"twice": own})
    assert list(made.signatures) == ["serving_default", "twice"]
    generation = export.Generation(data.BertTokenizer(VOCABULARY), 5, 7, searches=["greedy"])
    with (
        pytest.warns(DeprecationWarning, match="give a Generation as `generation`"),
        pytest.raises(ValueError, match="`generation` needs a model of"),  # it was passed on
    ):
        export.publish(small.tiny(), tmp_path / "gpt", signatures=generation)


@pytest.mark.parametrize("name", ["preprocessor", "postprocessor"])
def test_layers_that_do_not_follow_the_protocol_raise(name, tmp_path):
    layer = keras.layers.Dense(2) if name == "preprocessor" else "a string"
    with pytest.raises(TypeError, match=f"`{name}` must follow the protocol keras_attn.data.P"):
        export.publish(small.tiny(), tmp_path / "m", **{name: layer})
