"""How good generated images are: figures that need no eye, each with the baseline it is read against."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan._errors import UserError
from fastgan.data import LabelledDataset, SemiLabelledDataset
from fastgan.evaluation.classifier import Classifier
from fastgan.evaluation.measures import accuracy
from fastgan.recipes import Classifies, Generates, Recipe
from fastgan.training.data_order import Indexed

_AT_ONCE = 250
BASELINE_STEPS = 1000


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), in float64, of features (N, D), N from 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Gaussian is fitted to features (N, D) of two images or more, got {tuple(features.shape)}")
    features = features.double()
    return features.mean(0), features.T.cov()


def frechet_distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """The squared Frechet distance of two Gaussians, each (mean, covariance) in float64.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), equation 6 of Heusel et al. 2017 (arXiv 1706.08500). The trace of the
    root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: singular covariances need no care.
    """
    (mean, covariance), (other_mean, other_covariance) = one, other
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ other_covariance @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * overlap
    return max(0.0, distance.item())


def class_shares(labels: Tensor, classes: int) -> list[float]:
    """The part of ``labels`` (N,), N from 1, that each of the classes has."""
    return (torch.bincount(labels, minlength=classes).double() / len(labels)).tolist()


def measure_generation(
    recipe: Generates, classifier: Classifier, real: Tensor, test: Tensor, count: int, seed: int
) -> dict[str, Any]:
    """Figures of ``count`` images that a latent recipe makes of random codes.

    Classes are asked for in turn where the recipe is conditional on them.

    Args:
        real: training images (N, C, S, S) in [-1, 1], which generated ones are compared with.
        test: other real images, whose distance to ``real`` is the least that can be hoped for.
        count: 2 or more.

    Returns:
        {"generated": count, "frechet_distance", "frechet_distance_of_test_images" (both to ``real``, between Gaussian
        fits of the classifier's features), "class_shares" (by the classifier's labels), "rarest_class" (the smallest
        of them), "asked_class_accuracy" (of a conditional recipe: the part that shows the class asked for)}.
    """
    asked = torch.arange(count) % recipe.classes if recipe.classes else None
    codes = recipe.latents(count, torch.Generator().manual_seed(seed))
    labels: Sequence[Tensor | None] = (None,) * count if asked is None else asked.split(_AT_ONCE)
    features, seen = classifier.judge(
        torch.cat([recipe.decode(z, label).cpu() for z, label in zip(codes.split(_AT_ONCE), labels)])
    )
    fit = gaussian(classifier.judge(real)[0])
    shares = class_shares(seen, classifier.head.out_features)
    result: dict[str, Any] = {
        "generated": count,
        "frechet_distance": frechet_distance(gaussian(features), fit),
        "frechet_distance_of_test_images": frechet_distance(gaussian(classifier.judge(test)[0]), fit),
        "class_shares": shares,
        "rarest_class": min(shares),
    }
    if asked is not None:
        result["asked_class_accuracy"] = (seen == asked).double().mean().item()
    return result


def accuracy_of_labels_alone(
    recipe: Recipe,
    dataset: SemiLabelledDataset,
    test: LabelledDataset,
    *,
    batch_size: int,
    seed: int,
    steps: int | None = None,
) -> float:
    """Test accuracy of a semi-supervised recipe's own network "D", trained anew on the labelled images alone.

    Initial weights drawn by ``seed``, optimizer and batch size as in the recipe; only the cross entropy of the classes
    is minimised, for ``steps`` steps (default BASELINE_STEPS).

    Args:
        dataset: semi-labelled: ``labelled`` gives the indices of the labelled images.
        test: labelled images to be named.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        alone = type(recipe)(recipe.options)
        if not isinstance(alone, Classifies):
            raise UserError(f"{recipe.name} names no classes")
        items = [dataset[index] for index in dataset.labelled]
        images, labels = (torch.stack([item[name] for item in items]) for name in ("image", "label"))
        D, optimizer = alone.networks["D"], alone.optimizers["D"]
        D.train()
        for _ in range(BASELINE_STEPS if steps is None else steps):
            chosen = torch.randint(len(items), (batch_size,))
            optimizer.zero_grad()
            F.cross_entropy(D(images[chosen])[:, :-1], labels[chosen]).backward()
            optimizer.step()
        return accuracy(alone, test, len(test))


def mean_image_errors(train: Indexed, test: Indexed, directions: Sequence[str]) -> dict[str, float]:
    """By direction, what a translation that always answers with the mean training image of the target domain gets.

    Mean absolute error over all pixels and channels of the test images, on the [0, 1] scale. Images of one size.
    """
    errors = {}
    for direction in directions:
        target = direction[-1]
        images = (train[index][target].double() for index in range(len(train)))
        mean = functools.reduce(torch.add, images) / len(train)
        of_each = ((test[index][target] - mean).abs().mean().item() for index in range(len(test)))
        errors[direction] = sum(of_each) / (2 * len(test))
    return errors
