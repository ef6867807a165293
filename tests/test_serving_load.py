"""An exported model answers many clients at once as it answers one."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import small_model
from subprocesses import run_python

SCRIPT = Path(__file__).parent / "serving_load.py"
SIZES = (1, 2, 3, 5, 8, 13, 32)


def make_requests():
    """Batches of mixed sizes, each with values of its own; every fourth has a row that is NaN."""
    rng = np.random.default_rng(0)
    batches = []
    for number in range(40):
        x = rng.normal(size=(SIZES[number % len(SIZES)], 3)).astype("float32")
        if number % 4 == 3:
            x[number % len(x), number % 3] = np.nan
        batches.append(x)
    return batches


@pytest.mark.parametrize(
    "num_requests", [2000, pytest.param(20_000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_sixteen_clients_get_what_single_calls_give(num_requests, tmp_path):
    model = small_model(on_failure="nan")
    model.export(tmp_path / "exported", verbose=False)
    batches = make_requests()
    np.savez(tmp_path / "x.npz", **{str(number): x for number, x in enumerate(batches)})
    done = run_python(SCRIPT, "exported", "x.npz", "y.npz", num_requests, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    # Equal to the last bit: the steps of a request depend on its own batch alone, and one request
    # runs the same operations in the same order, whatever others do.
    assert figures["num_different"] == 0
    with np.load(tmp_path / "y.npz") as answers:
        for number, x in enumerate(batches):
            y = answers[str(number)]
            good = np.all(np.isfinite(x), axis=1)
            assert np.all(np.isnan(y[~good]))
            if good.any():
                # As the steps are those of the good rows, of float32 and at rtol = 1e-3.
                expected = model.predict_on_batch(x[good])
                np.testing.assert_allclose(y[good], expected, rtol=0, atol=1e-5)
    # 2,000 requests that each kept 5 kB would make 10 MB; what the allocator holds for 16 threads
    # varies by a MB or so, however many requests there are.
    assert figures["after"] - figures["before"] < 10e6
