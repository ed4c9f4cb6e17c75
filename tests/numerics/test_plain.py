"""Objects as plain data and back, and the errors that name the place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pytest

from bitwright.numerics.plain import PlainError, from_plain, to_plain


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    size: int
    ratio: float = 0.5
    colour: Colour = Colour.RED


@dataclass(frozen=True, slots=True)
class Tree:
    leaves: tuple[Leaf, ...] = ()
    best: Leaf | None = None
    tall: bool = False
    name: str = "oak"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tree has a name")


CLASSES: dict[str, type] = {"Leaf": Leaf, "Tree": Tree}


@pytest.mark.parametrize(
    "tree", [Tree(), Tree((Leaf(1), Leaf(2, 0.25, Colour.BLUE)), Leaf(3), True, "elm"), Tree(best=Leaf(0))], ids=str
)
def test_reading_what_was_written_gives_the_same_object(tree: Tree) -> None:
    assert from_plain(to_plain(tree), Tree, CLASSES) == tree


def test_plain_data_holds_types_enum_values_and_no_none() -> None:
    assert to_plain(Tree((Leaf(1),))) == {
        "type": "Tree",
        "leaves": [{"type": "Leaf", "size": 1, "ratio": 0.5, "colour": "red"}],
        "tall": False,
        "name": "oak",
    }


def test_an_integer_is_a_float_where_one_is_wanted() -> None:
    found = from_plain({"size": 1, "ratio": 2}, Leaf, CLASSES).ratio
    assert found == 2.0 and isinstance(found, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tal": True}, r"recipe: Tree has no field 'tal'; its fields are \['leaves', 'best', 'tall', 'name'\]"),
        ({"tall": 1}, "recipe.tall: expected bool, found 1"),
        ({"name": 3}, "recipe.name: expected str, found 3"),
        ({"leaves": {"size": 1}}, "recipe.leaves: expected a list"),
        ({"leaves": [{"size": 1}, {"size": 1.5}]}, r"recipe.leaves\[1\].size: expected int, found 1.5"),
        ({"best": {"size": True}}, "recipe.best.size: expected int, found True"),
        (
            {"best": {"size": 1, "colour": "green"}},
            r"recipe.best.colour: expected one of \['red', 'blue'\], found 'green'",
        ),
        ({"best": {"type": "Tree"}}, r"recipe.best: type must be one of \['Leaf'\], found 'Tree'"),
        ({"best": ["Leaf"]}, "recipe.best: expected a table"),
        ({"best": "Tree"}, "recipe.best: type must be one of"),
        ({"best": {}}, "recipe.best: .*size"),
        ({"name": ""}, "recipe: a tree has a name"),
    ],
)
def test_an_error_names_the_place_and_what_is_allowed(data: object, message: str) -> None:
    with pytest.raises(PlainError, match=message):
        from_plain(data, Tree, CLASSES)
