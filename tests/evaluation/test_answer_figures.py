"""Calibration by hand."""

import numpy as np

from fedkim_ray.evaluation.answer_figures import calibration


def test_each_bin_has_its_mean_its_share_of_yes_and_its_size() -> None:
    # Bin .2-.3 holds .2 and .28 with one yes; bin .9-1 holds 1.0 and .9 with two.
    p_B, yes_B, share_B = calibration(np.array([0.2, 0.28, 1.0, 0.9]), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(p_B, [0.24, 0.95])
    np.testing.assert_allclose(yes_B, [0.5, 1.0])
    np.testing.assert_allclose(share_B, [0.5, 0.5])
