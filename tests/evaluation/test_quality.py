import math

import pytest
import torch

from fastgan.evaluation import quality
from fastgan.evaluation.quality import class_shares, frechet_distance, gaussian, mean_image_errors


def spd(size, seed, rank=None):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, rank or size, generator=generator, dtype=torch.float64)
    return root @ root.T


def test_frechet_distance_of_gaussians_on_a_line():
    """For numbers it is (m1 - m2)^2 + (s1 - s2)^2."""
    one = torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double()
    other = torch.tensor([-2.0]).double(), torch.tensor([[9.0]]).double()
    assert frechet_distance(one, other) == pytest.approx(9 + 1)


def test_frechet_distance_of_commuting_covariances():
    """With common axes it is the sum over the axes."""
    turn = torch.linalg.qr(spd(5, 0)).Q
    one, other = torch.rand(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    means = torch.randn(2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = (means[0] - means[1]).square().sum() + (one.sqrt() - other.sqrt()).square().sum()
    found = frechet_distance((means[0], turn @ one.diag() @ turn.T), (means[1], turn @ other.diag() @ turn.T))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_against_the_root_of_the_product():
    """The trace of (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1 C2, which are real and positive."""
    one, other, zero = spd(6, 3), spd(6, 4), torch.zeros(6, dtype=torch.float64)
    overlap = torch.linalg.eigvals(one @ other).real.sqrt().sum()
    expected = one.trace() + other.trace() - 2 * overlap
    assert frechet_distance((zero, one), (zero, other)) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance((zero, other), (zero, one)) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_equal_and_of_singular_gaussians():
    zero = torch.zeros(8, dtype=torch.float64)
    for rank in (1, 3, 8):
        covariance = spd(8, 5, rank)
        assert 0 <= frechet_distance((zero, covariance), (zero, covariance)) < 1e-5 * covariance.trace()
    flat = torch.zeros(8, 8, dtype=torch.float64)
    assert frechet_distance((zero, flat), (zero, covariance)) == pytest.approx(covariance.trace().item())
    assert frechet_distance((zero, flat), (zero + 1, flat)) == pytest.approx(8)


def test_gaussian_fits_samples():
    generator = torch.Generator().manual_seed(0)
    covariance, mean = spd(3, 6), torch.tensor([1.0, -2.0, 0.5]).double()
    noise = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    samples = mean + noise @ torch.linalg.cholesky(covariance).T
    fitted = gaussian(samples.float())
    assert all(part.dtype == torch.float64 for part in fitted)
    assert frechet_distance(fitted, (mean, covariance)) < 1e-3 * covariance.trace()
    assert gaussian(torch.tensor([[1.0], [3.0]]))[1].item() == pytest.approx(2), "unbiased"
    with pytest.raises(ValueError, match=r"two images or more, got \(1, 3\)"):
        gaussian(torch.zeros(1, 3))


def test_class_shares():
    assert class_shares(torch.tensor([0, 0, 2, 2, 2]), 4) == [0.4, 0, 0.6, 0]


class Judge:
    """Calls the first pixel of an image its class, and its mean its feature."""

    head = torch.nn.Linear(1, 4)

    def judge(self, images):
        features = images.flatten(1)
        return torch.stack([features.mean(1), features[:, 0]], 1), features[:, 0].round().long()


class Painter:
    """Paints the class it was asked for, or for codes that begin above 0.5 the one below; without classes class 1."""

    latent_size = 2

    def __init__(self, classes):
        self.classes = classes

    def latents(self, count, generator):
        self.drawn = torch.randn(count, 2, generator=generator)
        return self.drawn

    def decode(self, z, labels=None):
        labels = torch.ones(len(z)) if labels is None else labels.float()
        return (labels - ((z[:, 0] > 0.5) & (labels > 0)).float()).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def test_generation_of_classes():
    real = torch.arange(4.0).repeat(25).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    painter = Painter(3)
    result = quality.measure_generation(painter, Judge(), real, real, 600, seed=0)
    asked, wrong = torch.arange(600) % 3, painter.drawn[:, 0] > 0.5
    right = ~wrong | (asked == 0)
    assert result["asked_class_accuracy"] == pytest.approx(right.double().mean().item()) and not right.all()
    shown = asked - (wrong & (asked > 0)).long()
    assert result["class_shares"] == pytest.approx([(shown == label).double().mean().item() for label in range(4)])
    assert result["rarest_class"] == 0 and result["generated"] == 600
    features = torch.stack([shown, shown], 1).double()
    reals = torch.arange(4.0).repeat(25)
    expected = frechet_distance(gaussian(features), gaussian(torch.stack([reals, reals], 1)))
    assert result["frechet_distance"] == pytest.approx(expected) and expected > 0.1


def test_generation_without_classes_depends_on_the_seed():
    real = torch.zeros(10, 1, 2, 2)
    painter = Painter(0)
    result = quality.measure_generation(painter, Judge(), real, real + 2, 30, seed=3)
    assert "asked_class_accuracy" not in result
    assert result["class_shares"][3] == 0 and math.isclose(sum(result["class_shares"]), 1)
    assert result["frechet_distance_of_test_images"] == pytest.approx(8), "two features, each 2 away"
    drawn = painter.drawn
    quality.measure_generation(painter, Judge(), real, real, 30, seed=3)
    assert torch.equal(painter.drawn, drawn)


def test_the_mean_image():
    def pair(a, b):
        return {"A": torch.full((1, 2, 2), a), "B": torch.full((3, 2, 2), b)}

    train = [pair(-1.0, 0.0), pair(0.0, 0.5), pair(1.0, 1.0)]  # means 0 and 0.5
    test = [pair(1.0, 0.5), pair(-0.5, -0.5)]
    errors = mean_image_errors(train, test, ("AtoB", "BtoA"))
    assert errors == {"AtoB": pytest.approx((0 + 1) / 4), "BtoA": pytest.approx((1 + 0.5) / 4)}
