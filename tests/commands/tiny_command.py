"""Flags of a CycleGAN whose step takes milliseconds."""

TINY = [
    "--load-size",
    "16",
    "--crop-size",
    "16",
    "--netG",
    "resnet_6blocks",
    "--ngf",
    "2",
    "--netD",
    "n_layers",
    "--n-layers-D",
    "1",
    "--ndf",
    "2",
    "--device",
    "cpu",
    "--sample-count",
    "2",
]
