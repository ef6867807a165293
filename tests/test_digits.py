"""The digits that the examples learn."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

import digits

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# SHA-256 of the bytes of x, uint8 (1500, 28, 28), and y, uint8 (1500,), in MNIST's own files.
SOURCE_IMAGES = "a2f8fb6723347d3b0e427c952464c946372a45e303f474b4319609b4adfc5188"
SOURCE_LABELS = "2ed0190ed4c25695ad63cf156badf425a2468520f6e1b817339bd5a3a9802d0b"


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepared_data_set_equals_its_source_in_order():
    builder = tfds.builder_from_directory(digits.SUBSET_DIR)
    records = tfds.as_numpy(builder.as_dataset(split="train", batch_size=-1))
    images, labels = records["image"], records["label"].astype(np.uint8)
    assert images.dtype == np.uint8 and images.shape == (1500, 28, 28, 1)
    assert hashlib.sha256(images.tobytes()).hexdigest() == SOURCE_IMAGES
    assert hashlib.sha256(labels.tobytes()).hexdigest() == SOURCE_LABELS
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_prepared_data_set_is_small_and_holds_png():
    (records,) = digits.SUBSET_DIR.glob("*.tfrecord*")
    content = records.read_bytes()
    assert len(content) < 1_000_000
    assert content.count(b"\x89PNG\r\n") == 1500


def test_subset_is_split_in_order_and_scaled():
    (train_images, train_labels), (test_images, test_labels) = digits.load_digits("subset")
    assert train_images.shape == (1350, 28, 28, 1) and test_images.shape == (150, 28, 28, 1)
    assert train_images.dtype == np.float32
    assert train_images.min() == 0.0 and train_images.max() == 1.0
    labels = np.concatenate([train_labels, test_labels]).astype(np.uint8)
    assert hashlib.sha256(labels.tobytes()).hexdigest() == SOURCE_LABELS


def test_builder_script_keeps_images_labels_and_order(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 10, 30, dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x=images, y=labels)
    script = load_script(EXAMPLES / "data" / "make_mnist_subset.py")
    script.main([str(tmp_path / "digits.npz"), "--data-dir", str(tmp_path)])
    builder = tfds.builder_from_directory(tmp_path / "mnist_subset" / "1.0.0")
    records = tfds.as_numpy(builder.as_dataset(split="train", batch_size=-1))
    np.testing.assert_array_equal(records["image"][..., 0], images)
    np.testing.assert_array_equal(records["label"], labels)


def test_source_and_licence_stand_beside_the_data():
    text = (EXAMPLES / "data" / "README.md").read_text(encoding="utf-8")
    assert "Y. LeCun, C. Cortes and C. Burges" in text and "CC BY-SA 3.0" in text
