"""Write the TFDS data set `mnist_subset` from an .npz of MNIST digits.

The prepared data set is in the repository, so nobody needs to run this to train. To make it again:

    python examples/data/make_mnist_subset.py DIGITS.npz

DIGITS.npz holds `x`, uint8 of shape (n, 28, 28), and `y`, uint8 of shape (n,).
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

DATA_DIR = Path(__file__).resolve().parent

# In full, because tfds otherwise looks for these texts beside the module, and the name of the
# module depends on how the script was started.
DESCRIPTION = "The first 1,500 images and labels of MNIST's training set, in their original order."
HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
CITATION = """@article{lecun2010mnist,
  title={MNIST handwritten digit database},
  author={LeCun, Yann and Cortes, Corinna and Burges, CJ},
  year={2010}
}"""
LICENSE = "CC BY-SA 3.0, Y. LeCun, C. Cortes and C. Burges"


class MnistSubset(tfds.core.GeneratorBasedBuilder):
    """MNIST digits in the order of their source, one split `train`, images as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, npz_path=None, **kwargs):
        self._npz_path = npz_path
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            homepage=HOMEPAGE,
            citation=CITATION,
            license=LICENSE,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            # tfds shuffles by the hash of the key; the experiment needs the original order.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        with np.load(self._npz_path) as digits:
            images, labels = digits["x"], digits["y"]
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image[..., None], "label": int(label)}


def main(argv=None):
    """Write the data set below `--data-dir`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("npz", type=Path, help="the digits: x uint8 (n, 28, 28), y uint8 (n,)")
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="default: beside the script"
    )
    args = parser.parse_args(argv)
    builder = MnistSubset(npz_path=args.npz, data_dir=args.data_dir)
    builder.download_and_prepare()
    print(f"{builder.info.splits['train'].num_examples} digits")


if __name__ == "__main__":
    main()
