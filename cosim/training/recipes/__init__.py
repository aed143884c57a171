"""Recipes: the structure of each network and how it is trained. Each recipe is a file."""

from cosim.errors import NetworkError, nearest
from cosim.training.recipes import alexnet, digits, lenet5, mnist, resnet20, vgg
from cosim.training.recipes.recipe import Recipe, Schedule

RECIPES = {module.RECIPE.name: module.RECIPE for module in (mnist, digits, lenet5, alexnet, vgg, resnet20)}


def recipe_for(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        NetworkError: there is no recipe of this name.
    """
    if name not in RECIPES:
        raise NetworkError(f"no recipe is named {name!r}: {nearest(name, RECIPES)}")
    return RECIPES[name]


__all__ = ["RECIPES", "Recipe", "Schedule", "recipe_for"]
