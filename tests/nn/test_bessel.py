import numpy as np
import torch
from scipy.special import spherical_jn

from atomsweep.nn.bessel import SphericalBesselBasis

DEGREES, ZEROS, CUTOFF = 7, 6, 6.0


def basis():
    return SphericalBesselBasis(DEGREES, ZEROS, CUTOFF, envelope_exponent=5)


def test_functions_are_normalised_spherical_bessel_functions_under_the_envelope():
    dist = torch.linspace(0.4, 5.99, 50, dtype=torch.float64)
    values = basis()(dist)
    x = dist.numpy() / CUTOFF
    u = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7
    zeros = basis().zeros.numpy()
    for degree in range(DEGREES):
        for n in range(ZEROS):
            zero = zeros[degree, 0, n]
            norm = np.sqrt(2) / abs(spherical_jn(degree + 1, zero))
            expected = u * norm * spherical_jn(degree, zero * x)
            np.testing.assert_allclose(values[degree, :, n], expected, rtol=1e-8, atol=1e-8)


def test_zeros_are_the_first_ones_of_each_degree():
    zeros = basis().zeros.numpy()[:, 0]
    assert np.all(np.diff(zeros, axis=1) > 0)
    np.testing.assert_allclose(zeros[0], np.pi * np.arange(1, ZEROS + 1))
    for degree in range(DEGREES):
        assert np.abs(spherical_jn(degree, zeros[degree])).max() < 1e-12
        grid = np.linspace(0.1, zeros[degree, -1] - 1e-3, 4000)
        signs = np.sign(spherical_jn(degree, grid))
        assert np.count_nonzero(np.diff(signs)) == ZEROS - 1


def test_value_and_slope_vanish_at_the_cutoff():
    dist = torch.tensor([CUTOFF - 1e-6], dtype=torch.float64, requires_grad=True)
    values = basis()(dist)
    assert values.abs().max() < 1e-10
    slopes = torch.autograd.grad(values.sum(), dist)[0]
    assert slopes.abs().max() < 1e-5


def test_single_precision_input_is_as_good_as_its_rounding():
    dist = torch.tensor([0.75, 1.0, 2.5])
    torch.testing.assert_close(basis()(dist).double(), basis()(dist.double()), rtol=1e-6, atol=1e-6)
