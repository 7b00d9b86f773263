"""The serving examples from scratch: each trains its models for a few steps."""

import pytest

pytest.importorskip("tensorflow_serving")

from tests.examples.runner import printed_by
from tests.export.serving_double import Double

pytestmark = [
    pytest.mark.backends("tensorflow", reason="the examples export SavedModels"),
    pytest.mark.slow,
]


def answers(printed):
    """The output from the first answer on."""
    return printed.partition("--server http://localhost:8501")[2] or printed


def test_serve_translation_publishes_and_queries_a_translator(tmp_path):
    printed = printed_by("serve_translation", "--steps", "6", cwd=tmp_path)
    servable = tmp_path / "runs" / "serve_translation" / "servables" / "translate"
    with Double(servable) as double:
        address = f"http://127.0.0.1:{double.rest_port}"
        again = printed_by("serve_translation", "--server", address, cwd=tmp_path)
    assert answers(again).split() == answers(printed).split()


def test_serve_bert_publishes_and_queries_three_models(tmp_path):
    printed = printed_by("serve_bert", "--steps", "12", cwd=tmp_path)
    assert printed.count("    -> ") == 5
    config = tmp_path / "runs" / "serve_bert" / "servables" / "models.config"
    assert config.read_text().count("base_path") == 3
