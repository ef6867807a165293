"""The vowels that the examples tell speakers by."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import vowels

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"

# Of the source's numbers in millionths, int32 (frames, 12), one utterance after another: it writes
# six decimals.
SOURCE_TRAIN = "4bdc3402e180a34598a574c8063ef302cfc8574b0a7bf210e5c51f5b3bdd403f"
SOURCE_TEST = "48d8310d50f0fac5c0332cd8c4522d2e7f106a9802888fd470ecee9aabfb72e6"

# Utterances of each speaker, as the data set's description counts them.
TRAIN_COUNTS = [30] * 9
TEST_COUNTS = [31, 35, 88, 44, 29, 24, 40, 50, 29]


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("split", "checksum", "counts", "longest"),
    [(0, SOURCE_TRAIN, TRAIN_COUNTS, 26), (1, SOURCE_TEST, TEST_COUNTS, 29)],
)
def test_loaded_series_equal_their_source_to_its_last_decimal(split, checksum, counts, longest):
    series, lengths, labels = vowels.load_vowels()[split]
    frames = np.concatenate([one[:length] for one, length in zip(series, lengths, strict=True)])
    millionths = np.rint(frames.astype("float64") * 1e6).astype("<i4")
    assert hashlib.sha256(millionths.tobytes()).hexdigest() == checksum
    assert lengths.min() == 7 and lengths.max() == longest
    # Speaker after speaker, in the source's order.
    np.testing.assert_array_equal(labels, np.repeat(np.arange(9), counts))


def test_loaded_series_are_padded_with_zeros_behind_their_last_step():
    for (series, lengths, labels), num in zip(vowels.load_vowels(), (270, 370), strict=True):
        assert series.shape == (num, 29, 12) and series.dtype == np.float32
        assert lengths.shape == labels.shape == (num,)
        assert lengths.dtype == labels.dtype == np.int32
        behind = np.arange(29) >= lengths[:, None]
        assert not series[behind].any() and series[~behind].all(axis=-1).mean() > 0.99


def test_vowel_files_are_small():
    assert sum(path.stat().st_size for path in vowels.VOWELS_DIR.iterdir()) < 450_000


def test_vowel_script_keeps_steps_channels_and_speakers(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    written = {"train": [], "test": []}
    for split, utterances in written.items():
        lines = ["#a comment", "@problemName JapaneseVowels", "@data"]
        for length, speaker in ((7, 1), (29, 9), (12, 4)):
            steps = random.normal(size=(length, 12)).round(6)
            channels = [",".join(f"{value:.6f}" for value in channel) for channel in steps.T]
            lines.append(":".join([*channels, str(speaker)]))
            utterances.append((steps, speaker - 1))
        (tmp_path / f"{split}.ts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = load_script(DATA / "make_vowels.py")
    script.main(
        [str(tmp_path / f"{split}.ts") for split in written] + ["--data-dir", str(tmp_path)]
    )
    monkeypatch.setattr(vowels, "VOWELS_DIR", tmp_path / "vowels")
    for loaded, utterances in zip(vowels.load_vowels(), written.values(), strict=True):
        for one, length, label, (steps, speaker) in zip(*loaded, utterances, strict=True):
            assert length == len(steps) and label == speaker
            np.testing.assert_allclose(one[:length], steps, rtol=0, atol=5e-7)


def test_source_and_licence_stand_beside_the_vowels():
    text = (vowels.VOWELS_DIR / "README.md").read_text(encoding="utf-8")
    assert "Kudo" in text and "10.24432/C5NS47" in text and "CC BY 4.0" in text
