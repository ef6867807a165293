"""The digits that the examples learn, read with tensorflow-datasets."""

from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds
from absl import logging

SUBSET_DIR = Path(__file__).resolve().parent / "data" / "mnist_subset" / "1.0.0"
SECONDS_TO_ANSWER = 10


def load_digits(name="subset"):
    """Loads MNIST digits as arrays.

    Args:
      name: "subset", the first 1,500 training digits, from this repository and split 90/10 in
        order; or "mnist", all 60,000 + 10,000, downloaded at first use.

    Returns:
      `((train images, train labels), (test images, test labels))`, images float32 in [0, 1] of
      shape `(n, 28, 28, 1)`.

    Raises:
      SystemExit: MNIST is not on this machine and can't be downloaded.
    """
    read = {"subset": _read_subset, "mnist": _read_mnist}[name]
    return tuple(_as_arrays(split) for split in read())


def _as_arrays(split):
    # Not tfds' batch_size=-1: under tfds.testing.mock_data it asks for endless memory.
    images, labels = zip(*tfds.as_numpy(split.batch(1000)), strict=True)
    return np.concatenate(images).astype("float32") / 255, np.concatenate(labels)


def _read_subset():
    builder = tfds.builder_from_directory(SUBSET_DIR)
    splits = ["train[:90%]", "train[90%:]"]  # the records are in MNIST's own order
    return builder.as_dataset(split=splits, as_supervised=True)


def _read_mnist():
    options = {"split": ["train", "test"], "as_supervised": True}
    logging.set_verbosity(logging.ERROR)  # tfds warns where it finds nothing yet
    try:
        return tfds.load("mnist", download=False, **options)
    except AssertionError:
        pass  # how tfds says that the data is not on this machine yet
    try:
        _ask_host()
        return tfds.load("mnist", **options)
    except (OSError, tfds.download.DownloadError) as error:
        raise SystemExit(
            "error: MNIST is not on this machine and can't be downloaded "
            f"({type(error).__name__}). Use --dataset subset, which needs no network."
        ) from error


def _ask_host():
    """Raises OSError at once where tfds would try for minutes to reach the host."""
    url = next(iter(tfds.builder("mnist").url_infos))
    with requests.get(url, stream=True, timeout=SECONDS_TO_ANSWER) as response:
        response.raise_for_status()
