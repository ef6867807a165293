"""What the plots show, compared with the data, entry by entry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from small_models import dense_field, make_data, small_model

from tf_neuralode import NeuralODE, odeint, plotting, solvers

ROOT = Path(__file__).resolve().parent.parent
TIMES = np.linspace(0.0, 2.0, 5)
VAN_DER_POL_START = np.array([2.0, 0.0])


@pytest.fixture
def ax():
    return Figure().subplots()


def rotation(t, y):
    del t
    return tf.stack([-y[..., 1], y[..., 0]], axis=-1)


def rotated():
    """Exact states `(5, 3, 2)` of the rotation at `TIMES`, from radii 1, 2, 3."""
    unit = np.stack([np.cos(TIMES), np.sin(TIMES)], axis=-1)
    return unit[:, np.newaxis] * np.array([1.0, 2.0, 3.0])[:, np.newaxis]


def van_der_pol(t, y):
    del t
    return tf.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


def assert_lines_hold(lines, expected):
    """`expected`: pairs of x and y."""
    assert len(lines) == len(expected)
    for line, (x, y) in zip(lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), y)


def arrows_of(ax):
    (arrows,) = [artist for artist in ax.collections if isinstance(artist, Quiver)]
    return arrows


# Trajectories


def test_trajectories_draw_each_component_of_each_sample(ax):
    states = rotated()
    assert plotting.trajectories(TIMES, states, labels=["x", "y"], ax=ax) is ax
    expected = [(TIMES, states[:, sample, i]) for i in range(2) for sample in range(3)]
    assert_lines_hold(ax.lines, expected)
    assert [line.get_color() for line in ax.lines] == ["C0"] * 3 + ["C1"] * 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y"]


def test_trajectories_draw_a_scalar_state_as_one_line(ax):
    plotting.trajectories(TIMES, TIMES**2, ax=ax, linestyle="--")
    assert_lines_hold(ax.lines, [(TIMES, TIMES**2)])
    assert ax.lines[0].get_linestyle() == "--"


def test_trajectories_draw_each_sample_at_its_own_times(ax):
    times = np.stack([TIMES, 2 * TIMES, 3 * TIMES])
    states = np.sin(times)[..., np.newaxis]
    plotting.trajectories(times, states, batch_first=True, ax=ax)
    assert_lines_hold(ax.lines, [(t, np.sin(t)) for t in times])


def test_trajectories_draw_what_odeint_and_the_layer_return(ax):
    y0 = tf.constant([[1.0, 0.0], [2.0, 0.0]])
    results = odeint(rotation, y0, TIMES)
    plotting.trajectories(results.times, results.states, ax=ax)
    layer = NeuralODE(dense_field(2), (0.0, 2.0), t_eval=TIMES, return_sequences=True)
    outputs = layer(y0)
    plotting.trajectories(TIMES, outputs, batch_first=True, ax=ax)
    times, states, outputs = results.times.numpy(), results.states.numpy(), outputs.numpy()
    expected = [(times, states[:, sample, i]) for i in range(2) for sample in range(2)]
    expected += [(TIMES, outputs[sample, :, i]) for i in range(2) for sample in range(2)]
    assert_lines_hold(ax.lines, expected)


@pytest.mark.parametrize(
    ("times", "states", "options", "message"),
    [
        (TIMES[:4], rotated(), {}, r"must be \(num_times,\) and \(num_times, ...\). Received: tim"),
        (TIMES, rotated(), {"batch_first": True}, r"must be \(batch, num_times, ...\)"),
        (TIMES, rotated(), {"labels": ["x"]}, "Received: 1 labels, 2 components"),
    ],
)
def test_trajectories_refuse_shapes_that_do_not_fit(times, states, options, message):
    with pytest.raises(ValueError, match=message):
        plotting.trajectories(times, states, **options)


# Phase portraits


def test_phase_portrait_shows_direction_and_size_of_the_field(ax):
    states = rotated()
    assert plotting.phase_portrait(rotation, states, num_arrows=7, ax=ax) is ax
    arrows = arrows_of(ax)
    radius = np.hypot(arrows.X, arrows.Y)
    np.testing.assert_allclose(arrows.get_array(), radius, rtol=1e-12)
    np.testing.assert_allclose(arrows.U, -arrows.Y / radius, atol=1e-12)
    np.testing.assert_allclose(arrows.V, arrows.X / radius, atol=1e-12)
    paths = [(states[:, i, 0], states[:, i, 1]) for i in range(3)]
    starts = [([states[0, i, 0]], [states[0, i, 1]]) for i in range(3)]
    assert_lines_hold(ax.lines, paths + starts)


def test_phase_portrait_leaves_a_margin_around_the_trajectories(ax):
    states = np.array([[0.0, -10.0], [1.0, 10.0]])
    plotting.phase_portrait(rotation, states, ax=ax)
    np.testing.assert_allclose([*ax.get_xlim(), *ax.get_ylim()], [-0.1, 1.1, -12.0, 12.0])


def test_phase_portrait_shows_a_field_at_the_time_given(ax):
    drift = lambda t, y: tf.ones_like(y) * tf.stack([t, -t])
    plotting.phase_portrait(drift, t=3.0, xlim=(-1, 1), ylim=(-2, 2), num_arrows=4, ax=ax)
    arrows = arrows_of(ax)
    np.testing.assert_allclose(arrows.get_array(), 3 * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(arrows.U, np.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(arrows.V, -np.sqrt(0.5), rtol=1e-6)
    assert arrows.X.min() == -1 and arrows.Y.max() == 2


def test_phase_portrait_draws_no_direction_where_the_field_is_zero(ax):
    plotting.phase_portrait(rotation, xlim=(-1, 1), ylim=(-1, 1), num_arrows=3, ax=ax)
    arrows = arrows_of(ax)
    assert arrows.U[4] == arrows.V[4] == arrows.get_array()[4] == 0


def test_phase_portrait_of_a_layer_shows_its_dynamics(ax):
    dynamics = dense_field(2)
    layer = NeuralODE(dynamics)
    layer.build((None, 2))
    plotting.phase_portrait(layer, xlim=(-1, 1), ylim=(-1, 1), num_arrows=5, ax=ax)
    arrows = arrows_of(ax)
    slopes = dynamics(np.stack([arrows.X, arrows.Y], axis=-1)).numpy()
    speed = arrows.get_array()
    shown = np.stack([arrows.U * speed, arrows.V * speed], axis=-1)
    np.testing.assert_allclose(shown, slopes, atol=1e-6)


def test_phase_portrait_refuses_what_is_not_of_the_plane():
    with pytest.raises(ValueError, match=r"must be \(num_times, ..., 2\). Received: .*\(5, 3\)"):
        plotting.phase_portrait(rotation, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"xlim and ylim must be given\. Received: xlim=None"):
        plotting.phase_portrait(rotation, ylim=(0, 1))


# Step sizes


def test_step_sizes_show_accepted_and_rejected_steps(ax):
    solver = solvers.DormandPrince()
    attempts = solvers.attempted_steps(solver, van_der_pol, VAN_DER_POL_START, (0.0, 20.0))
    assert plotting.step_sizes(attempts, ax=ax) is ax
    times, sizes, accepted = (x.numpy() for x in attempts)
    kept = times[accepted], sizes[accepted]
    rejected = times[~accepted], sizes[~accepted]
    assert_lines_hold(ax.lines, [kept, rejected])
    assert ax.get_yscale() == "log"
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [f"{accepted.sum()} accepted", f"{(~accepted).sum()} rejected"]


def test_step_sizes_of_equal_steps_are_one_level(ax):
    solver = solvers.RK4(num_steps=4)
    attempts = solvers.attempted_steps(solver, van_der_pol, VAN_DER_POL_START, (0.0, -1.0))
    plotting.step_sizes(attempts, ax=ax)
    assert_lines_hold(ax.lines, [([0, -0.25, -0.5, -0.75], [0.25] * 4), ([], [])])


# Evaluations over training


def test_evaluations_draw_the_history_of_a_training(ax):
    model = small_model(solver="rk4", track_stats=True)
    model.compile("adam", "mse")
    history = model.fit(*make_data(), epochs=3, validation_data=make_data(5), verbose=0)
    assert plotting.evaluations(history, ax=ax) is ax
    names = ["nfe", "val_nfe"]
    assert_lines_hold(ax.lines, [([1, 2, 3], history.history[name]) for name in names])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names


def test_evaluations_draw_the_dictionary_of_a_history(ax):
    plotting.evaluations({"loss": [3.0, 2.0], "encoder_nfe": [8.0, 14.0]}, ax=ax)
    assert_lines_hold(ax.lines, [([1, 2], [8.0, 14.0])])


def test_evaluations_say_how_to_count_them():
    with pytest.raises(ValueError, match=r"track_stats=True.*history of loss, confenfe"):
        plotting.evaluations({"loss": [1.0], "confenfe": [1.0]})


# Where they are drawn


def draw_each(**options):
    """The Axes of every function."""
    attempts = solvers.attempted_steps(solvers.RK4(4), van_der_pol, VAN_DER_POL_START, (0.0, 1.0))
    return [
        plotting.trajectories(TIMES, rotated(), **options),
        plotting.phase_portrait(rotation, rotated(), **options),
        plotting.step_sizes(attempts, **options),
        plotting.evaluations({"nfe": [8, 14]}, **options),
    ]


def test_each_plot_gets_a_figure_of_its_own_and_pyplot_none(tmp_path):
    axes = draw_each()
    assert len({id(ax.figure) for ax in axes}) == len(axes)
    assert pyplot.get_fignums() == []
    for ax in axes:
        assert ax.get_xlabel() and ax.get_ylabel()
        ax.figure.savefig(tmp_path / "plot.png")


def test_plots_go_into_the_axes_given():
    ax = Figure().subplots()
    assert all(drawn is ax for drawn in draw_each(ax=ax))


def test_without_matplotlib_the_error_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from tf_neuralode import plotting\n"
        "plotting.evaluations({'nfe': [8]})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 1
    message = (
        'ImportError: Plots need matplotlib. Install it with: pip install "tf-neuralode[plot]"'
    )
    assert run.stderr.splitlines()[-1] == message


def test_importing_the_package_imports_no_matplotlib_of_its_own():
    # Keras imports matplotlib where it is there, so only what comes after Keras says something.
    code = (
        "import sys, keras\n"
        "before = {name for name in sys.modules if name.startswith('matplotlib')}\n"
        "for name in before:\n"
        "    del sys.modules[name]\n"
        "from tf_neuralode import plotting\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
