"""Write `vowels/train.npz` and `vowels/test.npz` from the data set's .ts files.

The files are in the repository, so nobody needs to run this to train. To make them again:

    python examples/data/make_vowels.py JapaneseVowels_TRAIN.ts JapaneseVowels_TEST.ts

A line of a .ts file behind `@data` is one utterance: 12 channels and the speaker, 1 to 9, separated
by colons, and the steps of a channel separated by commas.
"""

import argparse
from pathlib import Path

import numpy as np

DATA_DIR = Path(__file__).resolve().parent


def read_ts(path):
    """Reads a .ts file of series of varying length.

    Returns:
      `(frames, lengths, labels)`: float64 `(num_frames, channels)`, one utterance after another;
      the number of steps of each utterance; and its speaker, from 0 on.
    """
    _, data = path.read_text(encoding="utf-8").split("@data\n")
    utterances, labels = [], []
    for line in data.splitlines():
        *channels, label = line.split(":")
        steps = [np.array(channel.split(","), dtype="float64") for channel in channels]
        utterances.append(np.stack(steps, axis=-1))
        labels.append(int(label) - 1)
    lengths = [len(utterance) for utterance in utterances]
    # A channel after another: a few kB less than frame after frame.
    return np.asfortranarray(np.concatenate(utterances)), np.array(lengths), np.array(labels)


def main(argv=None):
    """Write the two files into `vowels` below `--data-dir`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="JapaneseVowels_TRAIN.ts")
    parser.add_argument("test", type=Path, help="JapaneseVowels_TEST.ts")
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="default: beside the script"
    )
    args = parser.parse_args(argv)
    folder = args.data_dir / "vowels"
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in (("train", args.train), ("test", args.test)):
        frames, lengths, labels = read_ts(path)
        # float32 keeps all six decimals of the source; float16 would be off by up to 8e-4.
        stored = frames.astype("float32")
        np.savez_compressed(
            folder / f"{split}.npz",
            frames=stored,
            lengths=lengths.astype("uint8"),
            labels=labels.astype("uint8"),
        )
        error = np.max(np.abs(stored - frames))
        print(f"{split}: {len(lengths)} utterances, rounded by {error:.1e} at most")


if __name__ == "__main__":
    main()
