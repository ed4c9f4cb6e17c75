"""Which names of a model mean one and the same tensor.

Most often the output layer is the embedding again ("tied"), and the checkpoint stores it once. Which of the names is
stored, and whether tied names really hold equal numbers, is known from the checkpoint alone: the configuration may say
"tied" while the file holds two different tensors, and then the file is right, as it is for transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_ties(
    model: PreTrainedModel, provided: Collection[str], is_equal: Callable[[str, str], bool]
) -> dict[str, str]:
    """Alias -> the name that is stored. ``is_equal`` reads numbers; it is asked only where both names are stored."""
    ties: dict[str, str] = {}
    for names in _shared(model):
        present = [name for name in names if name in provided]
        if present:
            stored = present[0]
            ties |= {name: stored for name in names if name not in present}
            ties |= {name: stored for name in present[1:] if is_equal(stored, name)}
    return ties


def _shared(model: PreTrainedModel) -> list[list[str]]:
    """Groups of names for one tensor, the preferred name first: declared by the model, or one Parameter used twice."""
    groups: dict[str, list[str]] = {}
    first_name: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_name.setdefault(id(parameter), name)
        groups.setdefault(first, []).append(name)
    for alias, source in model.all_tied_weights_keys.items():
        root = next((first for first, names in groups.items() if source in names), None)
        if root is not None and alias not in groups[root]:
            groups[root] += groups.pop(alias, [alias])
    return [names for names in groups.values() if len(names) > 1]
