"""track_stats: evaluations and failures in the logs, and in nothing that is exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import make_data, small_model

from tf_neuralode import solvers

COMPILE = {"graph": {}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}


def tracked(mode="graph", **options):
    options = {"track_stats": True, "on_failure": "nan", **options}
    model = small_model(jit_compile=mode == "compiled layer", **options)
    model.compile("sgd", "mse", **COMPILE.get(mode, {}))
    return model


@pytest.mark.core
@pytest.mark.parametrize("mode", [*COMPILE, "compiled layer"])
def test_evaluations_and_failures_are_in_the_history_and_the_results(mode):
    # Equal steps: 20 of 2 evaluations each.
    model = tracked(mode, solver="heun")
    x, y = make_data(16)
    history = model.fit(x, y, batch_size=8, epochs=2, validation_data=(x, y), verbose=0).history
    for prefix in ("", "val_"):
        assert history[f"{prefix}nfe"] == [40, 40]
        assert history[f"{prefix}failed_solves"] == [0, 0]
    results = model.evaluate(x, y, batch_size=8, return_dict=True, verbose=0)
    assert results["nfe"] == 40 and results["failed_solves"] == 0


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_failed_solves_are_counted(mode):
    model = tracked(mode, solver=solvers.DormandPrince(1e-6, 1e-6, max_num_steps=1))
    results = model.evaluate(*make_data(16), batch_size=8, return_dict=True, verbose=0)
    assert results["failed_solves"] == 2


def test_they_are_in_the_progress_bar(capsys):
    tracked(solver="heun").fit(*make_data(16), batch_size=8, epochs=1, verbose=2)
    shown = capsys.readouterr().out
    assert "nfe: 40.0" in shown and "failed_solves: 0" in shown


def test_they_are_in_tensorboard(tmp_path):
    callback = keras.callbacks.TensorBoard(tmp_path)
    tracked(solver="heun").fit(
        *make_data(16), batch_size=8, epochs=2, verbose=0, callbacks=[callback]
    )
    values = {}
    for path in (tmp_path / "train").glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                values.setdefault(value.tag, []).append(tf.make_ndarray(value.tensor))
    assert [float(v) for v in values["epoch_nfe"]] == [40.0, 40.0]
    assert [float(v) for v in values["epoch_failed_solves"]] == [0.0, 0.0]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "layer in XLA"])
def test_nothing_of_it_is_exported(jit_compile, tmp_path):
    mode, solver = ("compiled layer", "rk4") if jit_compile else ("graph", "bosh3")
    model = tracked(mode, solver=solver)
    model.fit(*make_data(), verbose=0)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    names = " ".join(v.name for v in loaded.variables)
    assert "nfe" not in names and "failed" not in names
    function = loaded.signatures["serve"]
    graph_def = function.graph.as_graph_def()
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    assert not [n.name for n in nodes if "Assign" in n.op], "a prediction changes no variable"
    assert len(loaded.variables) == len(model.variables)


def test_predictions_and_calls_by_hand_leave_the_logs_alone():
    model = tracked(solver="heun")
    x, y = make_data(16)
    model.fit(x, y, verbose=0)
    model(x)
    assert model.get_metrics_result()["nfe"] == 40
    np.testing.assert_allclose(model.evaluate(x, y, return_dict=True, verbose=0)["nfe"], 40)
