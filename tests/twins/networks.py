"""The networks of small images in plain torch, written from their descriptions; what several twins share."""

import torch
from torch import nn


def dcgan_generator(latent, size, upsample="resize"):
    side = size // 4

    def doubling(inputs, outputs, bias):
        if upsample == "transposed":
            return [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)]
        return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 5, padding=2, bias=bias)]

    return nn.Sequential(
        nn.Linear(latent, 1024, bias=False),
        nn.BatchNorm1d(1024),
        nn.Tanh(),
        nn.Linear(1024, 128 * side * side, bias=False),
        nn.BatchNorm1d(128 * side * side),
        nn.Tanh(),
        nn.Unflatten(1, (128, side, side)),
        *doubling(128, 64, False),
        nn.BatchNorm2d(64),
        nn.Tanh(),
        *doubling(64, 1, True),
        nn.Tanh(),
    )


class DCGANDiscriminator(nn.Module):
    def __init__(self, size, outputs=1, norm="batch"):
        super().__init__()
        planes = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": nn.Identity}[norm]
        side = ((size - 2) // 2 - 2) // 2
        self.features = nn.Sequential(
            nn.Conv2d(1, 64, 3, bias=norm == "none"),
            planes(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, bias=norm == "none"),
            planes(128),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * side * side, 1024, bias=norm != "batch"),
            nn.BatchNorm1d(1024) if norm == "batch" else nn.Identity(),
            nn.ReLU(),
        )
        self.last = nn.Linear(1024, outputs)

    def forward(self, x):
        return self.last(self.features(x))


class MLPGenerator(nn.Module):
    def __init__(self, latent, size, classes=0):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        layers = [nn.Linear(latent + classes, 128), nn.LeakyReLU(0.2)]
        for width in (128, 256, 512):
            layers += [nn.Linear(width, 2 * width, bias=False), nn.BatchNorm1d(2 * width, eps=0.8), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Linear(1024, size * size), nn.Tanh(), nn.Unflatten(1, (1, size, size)))

    def forward(self, z, labels=None):
        return self.body(z if labels is None else torch.cat([self.embedding(labels), z], 1))


class MLPDiscriminator(nn.Module):
    def __init__(self, size, classes=0):
        super().__init__()
        self.embedding = nn.Embedding(classes, classes) if classes else None
        if classes:
            self.body = nn.Sequential(
                nn.Linear(size * size + classes, 512),
                nn.LeakyReLU(0.2),
                nn.Linear(512, 512),
                nn.Dropout(0.4),
                nn.LeakyReLU(0.2),
                nn.Linear(512, 512),
                nn.Dropout(0.4),
                nn.LeakyReLU(0.2),
                nn.Linear(512, 1),
            )
        else:
            self.body = nn.Sequential(
                nn.Linear(size * size, 512),
                nn.LeakyReLU(0.2),
                nn.Linear(512, 256),
                nn.LeakyReLU(0.2),
                nn.Linear(256, 1),
            )

    def forward(self, x, labels=None):
        x = x.flatten(1)
        return self.body(x if labels is None else torch.cat([x, self.embedding(labels)], 1))


class Encoder(nn.Module):
    def __init__(self, latent, size, classes=0):
        super().__init__()
        layers = []
        for inputs, outputs, stride in ((1 + classes, 16, 2), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.mean, self.log_sigma = (nn.Linear(32 * (size // 4) ** 2, latent) for _ in range(2))

    def forward(self, x, one_hot=None):
        if one_hot is not None:
            n, k = one_hot.shape
            x = torch.cat([x, one_hot.to(x).view(n, k, 1, 1) * torch.ones_like(x[:, :1])], 1)
        h = self.body(x)
        return self.mean(h), self.log_sigma(h)


def decoder(latent, size, classes=0):
    side = size // 4
    return nn.Sequential(
        nn.Linear(latent + classes, 32 * side * side),
        nn.Unflatten(1, (32, side, side)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )


def conv_classifier(size, outputs):
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 1024),
        nn.LeakyReLU(0.2),
        nn.Linear(1024, outputs),
    )


def noise(like, latent):
    """Codes for as many images as `like`, drawn in single precision."""
    return torch.randn(len(like), latent).to(like)


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
