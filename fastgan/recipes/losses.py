"""Adversarial losses on logits, the gradient penalty, and the two terms of a variational bound."""

import torch
from torch import Tensor, nn

from fastgan import functional

GAN_MODES = ("lsgan", "vanilla", "wgangp")


class GANLoss:
    """How far a discriminator's logits are from calling everything real, or everything fake; a 0-d tensor.

    lsgan: mean (logit - label)^2 (Mao et al. 2017); vanilla: binary cross entropy with logits (Goodfellow et al. 2014,
    non-saturating for the generator); wgangp: -mean for real, +mean for fake (Arjovsky et al. 2017; add
    `gradient_penalty` to the critic's loss). Labels are the scalars 1 and 0: no target tensor is made.
    """

    def __init__(self, mode: str = "lsgan"):
        if mode not in GAN_MODES:
            raise ValueError(f"unknown gan_mode {mode!r}; choose one of {', '.join(GAN_MODES)}")
        self.mode = mode

    def __call__(self, logits: Tensor, is_real: bool) -> Tensor:
        label = 1.0 if is_real else 0.0
        if self.mode == "lsgan":
            return functional.mse_loss(logits, label)
        if self.mode == "vanilla":
            return functional.bce_with_logits(logits, label)
        return -mean_score(logits) if is_real else mean_score(logits)


def mean_score(scores: Tensor) -> Tensor:
    """The mean of a critic's scores, E[D(x)], in fp32 (fp64 for fp64); a 0-d tensor."""
    return scores.mean(dtype=torch.promote_types(scores.dtype, torch.float32))


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, weight: float = 10.0) -> Tensor:
    """weight * mean over samples of (||d critic(x) / dx||_2 - 1)^2, x uniform on the line from real to fake; 0-d.

    Gulrajani et al. 2017, equation 3. real and fake are (N, C, H, W), of one shape (else ValueError); neither receives
    a gradient. The result is differentiable in the critic's parameters, by double backward. Computed in fp32 (fp64 for
    fp64), also under autocast. The N positions come from torch's global generator of the images' device.
    """
    if real.shape != fake.shape:
        raise ValueError(
            "the gradient penalty mixes real with generated images and needs both of one shape, "
            f"got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    dtype = torch.promote_types(real.dtype, torch.float32)
    with torch.autocast(real.device.type, enabled=False):
        real, fake = real.detach().to(dtype), fake.detach().to(dtype)
        position = torch.rand(real.shape[0], 1, 1, 1, device=real.device, dtype=dtype)
        mixed = torch.lerp(fake, real, position).requires_grad_()
        logits = critic(mixed)
        (gradient,) = torch.autograd.grad(logits, mixed, torch.ones_like(logits), create_graph=True)
        norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return weight * (norm - 1.0).square().mean()


def real_gradient_penalty(discriminator: nn.Module, real: Tensor, gamma: float) -> Tensor:
    """R1: gamma / 2 * mean over images of ||d discriminator(x) / dx||_2^2 at the real images; 0-d.

    Mescheder, Geiger and Nowozin 2018 (arXiv 1801.04406), equation 9. real is (N, C, H, W) and receives no gradient.
    The result is differentiable in the discriminator's parameters, by double backward. Computed in fp32 (fp64 for
    fp64), also under autocast.
    """
    with torch.autocast(real.device.type, enabled=False):
        real = real.detach().to(torch.promote_types(real.dtype, torch.float32)).requires_grad_()
        logits = discriminator(real)
        (gradient,) = torch.autograd.grad(logits, real, torch.ones_like(logits), create_graph=True)
        return 0.5 * gamma * gradient.square().sum((1, 2, 3)).mean()


RECONSTRUCTIONS = ("bce", "mse")


def reconstruction_loss(logits: Tensor, pictures: Tensor, kind: str = "bce") -> Tensor:
    """How far the pictures in [0, 1] that `logits` stand for are from `pictures`: summed over pixels, mean over images.

    bce: binary cross entropy on the logits (Bernoulli pixels, Kingma and Welling 2014, appendix C.1); mse: squared
    error of their sigmoid. Both (N, C, H, W); a 0-d tensor.
    """
    if kind not in RECONSTRUCTIONS:
        raise ValueError(f"unknown reconstruction loss {kind!r}; choose one of {', '.join(RECONSTRUCTIONS)}")
    if kind == "bce":
        total = functional.bce_with_logits(logits, pictures, reduction="sum")
    else:
        total = functional.mse_loss(torch.sigmoid(logits), pictures, reduction="sum")
    return total / len(pictures)


def kl_to_standard_normal(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), summed over the code, mean over images (Kingma and Welling 2014, appendix B).

    mean, log_sigma: (N, latent_size); a 0-d tensor in fp32 (fp64 for fp64).
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    mean, log_sigma = mean.to(dtype), log_sigma.to(dtype)
    return 0.5 * (mean.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(1).mean()


__all__ = [
    "GAN_MODES",
    "RECONSTRUCTIONS",
    "GANLoss",
    "gradient_penalty",
    "kl_to_standard_normal",
    "mean_score",
    "reconstruction_loss",
]
