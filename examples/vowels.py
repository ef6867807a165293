"""The vowels that speakers are told by: series of varying length, read from the repository."""

from pathlib import Path

import numpy as np

VOWELS_DIR = Path(__file__).resolve().parent / "data" / "vowels"
NUM_STEPS = 29  # of the longest series


def load_vowels():
    """Loads the JapaneseVowels data set as padded arrays.

    Returns:
      `((series, lengths, labels), (series, lengths, labels))`, 270 to train and 370 to test:
      series float32 of shape `(num, 29, 12)`, zero from step `lengths[i]` on; lengths int32 of
      shape `(num,)`, 7 to 29; labels int32 of shape `(num,)`, the speakers 0 to 8.
    """
    return tuple(_read(VOWELS_DIR / f"{split}.npz") for split in ("train", "test"))


def _read(path):
    with np.load(path) as vowels:
        frames, lengths, labels = (vowels[name] for name in ("frames", "lengths", "labels"))
    series = np.zeros((len(lengths), NUM_STEPS, frames.shape[1]), frames.dtype)
    # Frames lie one utterance after another, in the order in which the mask counts.
    series[np.arange(NUM_STEPS) < lengths[:, None]] = frames
    return series, lengths.astype("int32"), labels.astype("int32")
