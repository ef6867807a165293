"""Settings of the tests as a whole, and workers that are replaced before they fill the memory."""

import gc
import json
import os
import pathlib
import shutil
import sys
import tempfile

import filelock
import psutil
import pytest

# Tests compile hundreds of programs and run each for milliseconds. Without LLVM's optimization a
# program of XLA's takes two thirds of the time to compile; what it computes is the same.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Tracing makes many objects and little garbage, for which Python would look thousands of times.
gc.set_threshold(50_000, 20, 20)

# TensorFlow keeps what it has traced and compiled until its process ends, 20 to 60 MB for a solve
# with its gradient, 24 GB for all tests. So a worker that has grown beyond this leaves, between two
# files, and pytest-xdist starts another.
MAX_BYTES = 4e9

_left = pytest.StashKey[pathlib.Path]()
_file = pytest.StashKey[pathlib.Path]()
_num_slow = pytest.StashKey[int]()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="workers-that-left-")
        config.add_cleanup(folder.cleanup)
        config.stash[_left] = pathlib.Path(folder.name)


_PACKAGE = str(pathlib.Path(__file__).parents[1] / "tf_neuralode")


def _refusing(compare, function):
    """`compare` of tensors, but not for code of the package itself."""

    def compared(self, other):
        code = sys._getframe(1).f_code
        if code.co_filename.startswith(_PACKAGE):
            line = sys._getframe(1).f_lineno
            # In a v1 graph it is Python's identity.
            raise AssertionError(
                f"{code.co_filename}, line {line}, compares tensors by {compare.__name__}; use "
                f"{function}"
            )
        return compare(self, other)

    return compared


@pytest.fixture(scope="session", autouse=True)
def no_comparison_of_tensors_by_python_operators():
    """In every test, since a comparison is seen only where it is traced."""
    import tensorflow as tf  # behind the flags above

    with pytest.MonkeyPatch.context() as patch:
        for cls in (tf.Tensor, tf.Variable):
            patch.setattr(cls, "__eq__", _refusing(cls.__eq__, "tf.equal"))
            patch.setattr(cls, "__ne__", _refusing(cls.__ne__, "tf.not_equal"))
        yield


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_run():
    """Weights too: a run that fails can be repeated."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def once_a_run(tmp_path_factory, worker_id):
    """`once_a_run(name, make)` is `make()`, of JSON's types, made by the first worker that asks."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent  # of all workers

    def once(name, make):
        path = folder / f"{name}.json"
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(json.dumps(make()))
            return json.loads(path.read_text())

    return once


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["left"] = str(node.config.stash[_left])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    workerinput = getattr(item.config, "workerinput", None)
    # Fixtures of a file are torn down at its end.
    begins_file = item.config.stash.get(_file, None) != item.path
    item.config.stash[_file] = item.path
    if workerinput and begins_file and psutil.Process().memory_info().rss > MAX_BYTES:
        left = pathlib.Path(workerinput["left"])
        (left / workerinput["workerid"]).touch()
        if measured := "coverage" in sys.modules and sys.modules["coverage"].Coverage.current():
            measured.stop()
            measured.save()
            # Where it was saved the next worker would erase it.
            shutil.move(measured.get_data().data_filename(), left)
        os._exit(0)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session):
    """Brings the coverage of workers that left to where pytest-cov, after this, combines it."""
    result = yield
    if _left in session.config.stash:
        for file in session.config.stash[_left].glob(".coverage.*"):
            shutil.move(file, pathlib.Path.cwd())
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """Hands on the test that a worker would have run next; that of a crash fails, as ever."""
    worker = report.node
    if (worker.config.stash[_left] / worker.gateway.id).exists():
        sched.mark_test_pending(crashitem)
        report.outcome = "handed on"


def pytest_report_teststatus(report):
    if report.outcome == "handed on":
        return "", "", ""


# What wasn't run is said at the end. Workers collect, and tell the process that prints.


def pytest_deselected(items):
    if items:
        num_slow = sum("slow" in item.keywords for item in items)
        items[0].config.stash[_num_slow] = num_slow


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["num_slow"] = session.config.stash.get(_num_slow, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if num_slow := getattr(node, "workeroutput", {}).get("num_slow", 0):
        node.config.stash[_num_slow] = num_slow


def pytest_terminal_summary(terminalreporter, config):
    if num_slow := config.stash.get(_num_slow, 0):
        terminalreporter.write_line(
            f"not run: {num_slow} slow tests; by hand: python -m pytest -m slow (CONTRIBUTING.md)"
        )
