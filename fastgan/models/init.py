"""Initial weights of the image-to-image networks (normal 0.02 in Zhu et al. 2017 and Isola et al. 2017)."""

from torch import nn

INIT_TYPES = ("normal", "xavier", "kaiming", "orthogonal")


def init_weights(network: nn.Module, init_type: str = "normal", gain: float = 0.02) -> nn.Module:
    """Fill a network in place, from torch's global generator, and return it.

    Convolution and linear weights: N(0, gain), Xavier normal times gain, Kaiming normal by fan-in (no gain), or
    orthogonal times gain. Their biases: 0. Batch norm: weight N(1, gain), bias 0. ValueError for another init_type.
    """
    if init_type not in INIT_TYPES:
        raise ValueError(f"unknown init_type {init_type!r}; choose one of {', '.join(INIT_TYPES)}")
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            if init_type == "normal":
                nn.init.normal_(module.weight, 0.0, gain)
            elif init_type == "xavier":
                nn.init.xavier_normal_(module.weight, gain)
            elif init_type == "kaiming":
                nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in")
            else:
                nn.init.orthogonal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)
    return network


__all__ = ["INIT_TYPES", "init_weights"]
