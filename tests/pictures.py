"""What a picture must show to be one."""

import matplotlib.image
import numpy as np


def assert_shows_curves(path):
    """Not blank, and large enough to read."""
    picture = matplotlib.image.imread(path)
    height, width = picture.shape[:2]
    assert height >= 300 and width >= 600
    # Frames, text and lines cover a few per cent of the white, in many colours.
    assert (picture[..., :3] < 0.9).any(axis=-1).mean() > 0.01
    # One number a pixel: sorting rows takes seconds.
    colours = np.rint(255 * picture[..., :3]).astype(int) @ [65536, 256, 1]
    assert len(np.unique(colours)) > 20
