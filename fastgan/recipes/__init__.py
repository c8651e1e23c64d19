"""The systems fastgan trains, by name; a recipe's module is imported when it is asked for."""

from importlib import import_module

from ._base import Recipe

RECIPES = {"cyclegan": "fastgan.recipes.cyclegan:CycleGAN"}


def get(name: str) -> type[Recipe]:
    """The recipe class called `name`. ValueError, with the list, for another name."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    module, _, attribute = RECIPES[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = ["RECIPES", "Recipe", "get"]
