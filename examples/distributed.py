"""Train a small GPT on all devices of one or several machines, and resume it after a kill -9.

    python examples/distributed.py                            # all devices of this machine
    python examples/distributed.py --workers 2                # two processes on it, for a trial
    python examples/distributed.py --workers a:2222,b:2222 --index 0   # on machine a; on b, 1
    python examples/distributed.py --split-cpu 4 --model-parallel 2    # JAX: 2 x 2 devices
    python examples/distributed.py --resume                   # every worker, after one was killed

KERAS_BACKEND=jax trains with keras.distribution, KERAS_BACKEND=tensorflow with tf.distribute. In
place of --workers and --index, TF_CONFIG may be set, or KERAS_DISTRIBUTION_JOB_ADDRESSES and
KERAS_DISTRIBUTION_PROCESS_ID. All workers must see --output; the first one writes there.
"""

import argparse
import json
import multiprocessing.connection
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _runs
import _shared
import keras
import numpy as np
import tensorflow as tf
from generate_text import LENGTH, VOCABULARY_SIZE, rows_of, unigram_perplexity

from keras_attn import data, distribution, models, training

BATCH_SIZE = 16  # of all workers together
STEPS = 600
EPOCHS = 5  # each of a fifth of the steps, then an evaluation on the held-out documents
LEARNING_RATE = 2e-3
SILENCE = 30  # seconds after which JAX considers a worker dead
REFUSED = 2  # the exit status of a worker whose options or data were refused


def batches(
    rows: np.ndarray, seed: int | None, start: int, worker: int, workers: int, replicas: int
) -> tf.data.Dataset:
    """A worker's part of each batch, in parts for each replica, from batch `start` on.

    All workers draw the same order, endless with a seed, and each takes different rows: together
    they read the same batches as a single worker, and no row twice.
    """
    order = tf.data.Dataset.range(len(rows))
    if seed is not None:
        order = _shared.endless(order, seed)
    order = order.batch(BATCH_SIZE, drop_remainder=True).skip(start)
    order = order.map(lambda batch: tf.reshape(batch, [workers, replicas, -1])[worker]).unbatch()
    rows = tf.constant(rows)

    def read(numbers: tf.Tensor) -> tuple[dict, tf.Tensor]:
        chosen = tf.gather(rows, tf.ensure_shape(numbers, [BATCH_SIZE // (workers * replicas)]))
        ids = chosen[:, :-1]
        return {"token_ids": ids, "padding_mask": tf.ones_like(ids, tf.bool)}, chosen[:, 1:]

    return order.map(read).prefetch(tf.data.AUTOTUNE)


def connect_tensorflow(arguments: argparse.Namespace, workers: list[str]) -> tuple:
    """The scope for training, the number of devices, and a function that distributes data."""
    cpu, devices = tf.config.list_physical_devices("CPU")[0], None
    if arguments.model_parallel > 1:
        raise SystemExit("--model-parallel needs JAX, got KERAS_BACKEND=tensorflow")
    if len(workers) > 1:  # before any operation
        task = {"type": "worker", "index": arguments.index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        if arguments.split_cpu > 1:
            parts = [tf.config.LogicalDeviceConfiguration()] * arguments.split_cpu
            tf.config.set_logical_device_configuration(cpu, parts)
            devices = [f"CPU:{i}" for i in range(arguments.split_cpu)]
        strategy = tf.distribute.MirroredStrategy(devices)

    def hand_out(read: Callable[..., tf.data.Dataset]) -> Any:
        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            parts = context.num_input_pipelines
            return read(context.input_pipeline_id, parts, context.num_replicas_in_sync // parts)

        return strategy.distribute_datasets_from_function(of_worker)

    return strategy.scope(), strategy.num_replicas_in_sync, hand_out


def connect_jax(arguments: argparse.Namespace, workers: list[str]) -> tuple:
    """The scope for training, the number of devices, and a function that distributes data."""
    import jax

    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the data
    if arguments.split_cpu > 1:
        jax.config.update("jax_num_cpu_devices", arguments.split_cpu)
    if len(workers) > 1:  # before any operation
        place = workers[0], len(workers), arguments.index
        jax.distributed.initialize(*place, heartbeat_timeout_seconds=SILENCE)
    copies, split = divmod(jax.device_count(), arguments.model_parallel)
    if split or (arguments.model_parallel > 1 and len(workers) > 1):
        raise SystemExit(
            "--model-parallel must divide the devices of one process, got "
            f"{arguments.model_parallel} for {len(workers)} of {jax.local_device_count()} devices"
        )
    mesh = keras.distribution.DeviceMesh(
        (copies, arguments.model_parallel), ["batch", "model"], keras.distribution.list_devices()
    )
    layout = distribution.layout_map(mesh)
    sizes = {"vocabulary_size": arguments.model_parallel, "num_layers": 1}  # the rest is equal
    try:
        distribution.check(models.gpt.decoder(arguments.size, **sizes), layout)
    except ValueError as error:
        raise SystemExit(f"--model-parallel {arguments.model_parallel}: {error}") from error
    split_model = keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
    )
    return split_model.scope(), copies, lambda read: read(arguments.index, len(workers), 1)


def work(arguments: argparse.Namespace) -> None:
    """Run one worker."""
    workers = ["localhost:0"] if arguments.workers == "1" else arguments.workers.split(",")
    began, output = time.time(), arguments.output
    steps_per_epoch = max(1, arguments.steps // EPOCHS)
    try:
        distribution.wait_for_workers(workers, arguments.index, arguments.wait)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--workers needs a count or addresses: {error}") from error
    connect = {"tensorflow": connect_tensorflow, "jax": connect_jax}[keras.backend.backend()]
    scope, copies, hand_out = connect(arguments, workers)
    if BATCH_SIZE % copies:
        raise SystemExit(
            f"the number of devices must divide the {BATCH_SIZE} rows of a batch, got {copies}"
        )
    first = arguments.index == 0
    say = print if first else lambda *_: None
    keras.utils.set_random_seed(arguments.seed)  # the same weights on each worker

    # Text
    if arguments.text:
        documents = data.read_documents(arguments.text)
    else:
        table = data.read_table(_shared.CORPUS)
        documents = list(data.table_documents(table, "en").values())
    train_documents, held_out_documents = data.split_documents(documents, _shared.HELD_OUT)
    vocabulary = data.train_vocabulary(
        (paragraph for document in train_documents for paragraph in document),
        VOCABULARY_SIZE,
        lowercase=False,
    )
    tokenizer = data.BertTokenizer(vocabulary, lowercase=False)
    train, held_out = rows_of(train_documents, tokenizer), rows_of(held_out_documents, tokenizer)
    if len(held_out) < BATCH_SIZE:
        raise SystemExit(
            f"--text must have at least {BATCH_SIZE} held-out rows, got {len(held_out)}"
        )
    say(f"{len(train)} rows of {LENGTH} tokens for training, {len(held_out)} held out")

    size = -(-len(vocabulary) // arguments.model_parallel) * arguments.model_parallel
    # Keras counts what the replicas read, which may be more.
    held_out_steps = len(held_out) // BATCH_SIZE
    with scope:
        model = models.gpt.decoder(arguments.size, vocabulary_size=size, dropout=0.0)
        model.compile(
            keras.optimizers.Adam(_shared.schedule(LEARNING_RATE, EPOCHS * steps_per_epoch)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[training.Perplexity(from_logits=True)],
            jit_compile=keras.backend.backend() == "jax",  # TensorFlow: not across replicas
        )
        say(f"{model.count_params():,} weights on {copies} devices of {len(workers)} workers")
        checkpoint = training.TrainingCheckpoint(
            output / "checkpoints",
            every=arguments.save_every,
            data=_runs.identity(arguments, train, vocabulary, BATCH_SIZE, steps_per_epoch),
        )
        step = _runs.restore(arguments, checkpoint, model, batches(train, None, 0, 0, 1, 1))
        if first:
            _shared.write_vocabulary(output, vocabulary)
        if step:
            say(f"resuming after step {step}")
        validation = hand_out(lambda *share: batches(held_out, None, 0, *share))
        model.fit(
            hand_out(lambda *share: batches(train, arguments.seed, step, *share)),
            epochs=EPOCHS,
            initial_epoch=step // steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation,
            validation_steps=held_out_steps,
            callbacks=[checkpoint],
            shuffle=False,  # the stream is shuffled
            verbose="auto" if first else 0,
        )
        found = model.evaluate(validation, steps=held_out_steps, verbose=0, return_dict=True)
    if first:
        model.save(output / "model.keras")
    say(f"{arguments.steps} steps, {time.time() - began:.0f} s in total")
    say(
        f"perplexity {found['perplexity']:.1f} a token on held-out documents, a unigram "
        f"model {unigram_perplexity(train, held_out, len(vocabulary)):.1f}"
    )


def attempt(arguments: argparse.Namespace) -> None:
    """Run one worker; if it refuses its options or data, it prints why and exits with `REFUSED`."""
    try:
        work(arguments)
    except SystemExit as refusal:
        print(f"worker {arguments.index}: {refusal}", file=sys.stderr)
        sys.exit(REFUSED)


def start_workers(arguments: argparse.Namespace, count: int) -> None:
    """Start the workers on this machine; if one fails, end the others."""
    if arguments.index:
        raise SystemExit(f"--index needs addresses in --workers, got --workers {count}")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    arguments.workers = ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for port in sockets:
        port.close()
    processes, spawn = [], multiprocessing.get_context("spawn")
    for index in range(count):
        place = argparse.Namespace(**{**vars(arguments), "index": index})
        processes.append(spawn.Process(target=attempt, args=(place,), daemon=True))
        processes[index].start()
        print(f"worker {index} is process {processes[index].pid}", flush=True)
    running = processes
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        ended = [process.exitcode for process in processes]  # once: another may end meanwhile
        failed = [i for i, status in enumerate(ended) if status]
        if failed:
            for process in processes:
                process.kill()
            status = ended[failed[0]]
            hint = "" if status == REFUSED else _runs.resume_hint(arguments)
            raise SystemExit(f"worker {failed[0]} ended with status {status}{hint}")
        running = [
            process for process, status in zip(processes, ended, strict=True) if status is None
        ]


def place() -> tuple[str, str]:
    """The workers and the index of this one, from the environment."""
    if os.environ.get("TF_CONFIG"):
        try:
            config = json.loads(os.environ["TF_CONFIG"])
            cluster, task = config.get("cluster", {}), config.get("task", {})
            workers = [*cluster.get("chief", []), *cluster.get("worker", [])]
            kind, index = task.get("type", "worker"), int(task.get("index", 0))
        except (AttributeError, TypeError, ValueError) as error:
            raise SystemExit(f"TF_CONFIG must have a cluster and a task, got {error}") from error
        if kind not in ("chief", "worker") or not {*cluster} <= {"chief", "worker"}:
            raise SystemExit(
                f"TF_CONFIG must have chief and worker only, got {', '.join(cluster)} and the "
                f"task {kind}"
            )
        # The chief is the first worker, as for TensorFlow.
        index += len(cluster.get("chief", [])) if kind == "worker" else 0
        return ",".join(workers) or "1", str(index)
    workers = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "1")
    count = os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES")
    if count not in (None, str(len(workers.split(",")))):
        raise SystemExit(
            f"KERAS_DISTRIBUTION_JOB_ADDRESSES must have an address of each of the {count} "
            f"processes, got {workers}"
        )
    return workers, os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")


def options() -> argparse.ArgumentParser:
    """The command line."""
    workers, index = place()
    parser = _runs.options(__doc__, "distributed", resume=True)
    parser.add_argument(
        "--workers", default=workers, help="host:port of each, or how many to start here"
    )
    parser.add_argument("--index", type=int, default=index, help="which of them this one is")
    parser.add_argument("--wait", type=float, default=300, help="seconds, for the other workers")
    parser.add_argument(
        "--split-cpu", type=int, default=1, help="split the CPU into devices, for a trial"
    )
    parser.add_argument("--model-parallel", type=int, default=1, help="devices that share a model")
    parser.add_argument("--text", type=pathlib.Path, help="a text file instead of the corpus")
    parser.add_argument("--size", default="gpt_mini")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main(arguments: argparse.Namespace) -> None:
    if arguments.workers.isdecimal() and int(arguments.workers) > 1:
        start_workers(arguments, int(arguments.workers))
    else:
        work(arguments)


if __name__ == "__main__":
    _runs.run(main, options())
