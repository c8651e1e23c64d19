"""thop, which looks up the class of a layer in a table, knows ours."""

import sys
import types

import pytest
import torch
from torch import nn

import fastgan

BLOCKS = ("ConvNormAct2d", "Sequential")  # made of layers, which are counted
NAMES = [name for name in fastgan.nn.__all__ if not name.endswith("Loss") and name not in BLOCKS]
STOCK = {name: getattr(nn, name, nn.Conv2d) for name in NAMES}  # ReflectionPadConv2d is a convolution of torch's, too


def made(kind):
    return kind(1) if "Pad2d" in kind.__name__ else kind(4) if "Norm" in kind.__name__ else kind(4, 4, 3)


@pytest.fixture
def table(monkeypatch):
    """The table of thop, which is imported when the test calls it: from classes to what counts them."""
    monkeypatch.delitem(sys.modules, "thop.profile", raising=False)

    def load(*classes):
        thop = types.ModuleType("thop.profile")
        thop.register_hooks = {each: f"count_{each.__name__}" for each in classes}
        monkeypatch.setitem(sys.modules, "thop.profile", thop)
        return thop.register_hooks

    return load


@pytest.mark.parametrize("fused", [False, True], ids=["ours", "fused"])
@pytest.mark.parametrize("first", ["thop", "layer"])
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_counted_as_the_stock_one(name, first, fused, table):
    known = table(nn.Module, *STOCK.values()) if first == "thop" else None
    if fused:
        layer = made(STOCK[name])
        if name == "ReflectionPadConv2d":
            layer.padding, layer.padding_mode = (1, 1), "reflect"
        fastgan.fuse(layer)
    else:
        layer = made(getattr(fastgan.nn, name))
    assert type(layer) is getattr(fastgan.nn, name)
    known = known or table(nn.Module, *STOCK.values())
    nn.Sequential(layer).eval()  # as thop does before it looks
    assert not layer.training and layer.train().training
    assert known[type(layer)] == f"count_{STOCK[name].__name__}"


def test_what_a_user_says_of_our_layers_stays(table):
    known = table(nn.Conv2d)
    known[fastgan.nn.Conv2d] = "of the user"
    made(fastgan.nn.Conv2d).eval(), made(fastgan.nn.ConvTranspose2d).eval()
    assert known == {nn.Conv2d: "count_Conv2d", fastgan.nn.Conv2d: "of the user"}


def test_subclasses_of_users_are_theirs(table):
    class Own(fastgan.nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + torch.linalg.inv(x)

    known = table(nn.Conv2d)
    Own(4, 4, 3).eval()
    assert known == {nn.Conv2d: "count_Conv2d"}
