"""Saves where files can't grow: `python full_disk.py model.keras|model.weights.h5|exported`.

A limit on the size of files stands in for the full disk: it needs no rights, and writes fail in the
same places, with another number (EFBIG for ENOSPC). Leaves a first save, made with room, in the
folder `whole`, and prints one line of JSON for each failed save after it.
"""

import contextlib
import json
import os
import resource
import shutil
import sys

import keras
from small_models import small_model

LIMIT = 5000  # bytes: less than any of the files


def save(model, path):
    if path.endswith(".keras"):
        model.save(path)
    elif path.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.export(path, verbose=False)


def save_as_advised(model, path):
    """Under another name, which takes the former one's place once it is whole."""
    save(model, f"new.{path}")
    shutil.rmtree(path, ignore_errors=True)  # os.replace doesn't replace a folder that isn't empty
    os.replace(f"new.{path}", path)


@contextlib.contextmanager
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def copy(source, target):
    (shutil.copytree if os.path.isdir(source) else shutil.copy)(source, target)


def main(path):
    model = small_model()
    save(model, path)
    os.mkdir("whole")
    copy(path, f"whole/{path}")
    for way in (save_as_advised, save):
        # HDF5 may end the process before it says anything: so the line comes first.
        print(json.dumps({"start": way.__name__}), flush=True)
        try:
            with full_disk():
                way(model, path)
            error = None
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        print(json.dumps({"way": way.__name__, "error": error}), flush=True)
        if way is save_as_advised:
            os.mkdir("kept")
            copy(path, f"kept/{path}")


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main(sys.argv[1])
