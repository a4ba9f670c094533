"""Call: one operator of a traced graph as the rules see it, its arguments by name and the atoms of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.fx import Node

from paring.graph.channels.atoms import NOWHERE, Atoms, Dims, Ids

Value: TypeAlias = Dims | tuple[Dims, ...]
"""What an operator gives: the dimensions of its tensor, or of each of its tensors."""


class Counted(NamedTuple):
    """A module that may know how many channels there are: it sees each as one of a dimension of its own, as heads.

    Where it cuts a tensor into equal parts, these are the atoms of one part, of which a channel may be several.
    """

    module: str
    ids: Ids
    part: bool = False


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of the tensor that a node gives."""
    return tuple(int(size) for size in node.meta["val"].shape)


def is_tensor(node: Any) -> bool:
    """Whether a node gives one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)


def layer_of(node: Node) -> str:
    """Qualified name of the module whose forward ran the operator; empty for the network itself."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(list(stack.values()))), "")


def bound(node: Node) -> dict[str, Any]:
    """Arguments of an operator by their names in its schema, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(index): value for index, value in enumerate(node.args)}
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        arguments[argument.name] = (
            node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, default)
        )
    return arguments


@dataclass
class Call:
    """One operator: `arguments` by name; `known` holds the atoms of every tensor before it.

    `counted` gathers the modules that may know how many channels there are.
    """

    node: Node
    atoms: Atoms
    known: Mapping[Node, Value]
    counted: list[Counted]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arguments = bound(self.node)

    @property
    def operator(self) -> str:
        """Name of the operator without namespace, overload and the underscore of the in-place forms."""
        target = self.node.target
        name = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
        return name.removeprefix("aten::").rstrip("_")

    @property
    def where(self) -> str:
        """The operator and the layer, for reasons that people read."""
        layer = layer_of(self.node)
        return f"{self.operator} in {layer!r}" if layer else f"{self.operator} in the network's own forward"

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return shape_of(self.node)

    def number(self, name: str) -> int:
        """An integer argument."""
        return int(self.arguments[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor argument."""
        return shape_of(self.arguments[name])

    def dims(self, name: str) -> Dims:
        """Dimensions of a tensor argument; none where it is not given."""
        return self.dims_of(self.arguments.get(name))

    def dims_of(self, node: Any) -> Dims:
        """Dimensions of a tensor."""
        if not is_tensor(node):
            return ()
        return cast(Dims, self.known[node])

    def tensors(self) -> list[Node]:
        """All tensors among the arguments, lists included."""
        return [node for node in self.node.all_input_nodes if is_tensor(node)]

    def axis(self, name: str, rank: int) -> int:
        """A dimension argument, counted from the front."""
        return self.number(name) % max(rank, 1)

    def freeze(self, ids: Ids | None, what: str) -> None:
        """The operator does something with these channels that removal can't follow."""
        self.atoms.freeze(ids, f"{self.where} {what}")

    def stay(self, ids: Ids | None, size: int, what: str) -> Ids | None:
        """Freeze these channels; what the operator gives instead are `size` channels frozen for the same reason."""
        if ids is None or size < 2:
            self.freeze(ids, what)
            return None
        self.freeze(ids, what)
        given = self.atoms.new(NOWHERE, size)
        self.freeze(given, what)
        return given

    def couple(self, first: Ids | None, second: Ids | None) -> Ids | None:
        """The operator needs two dimensions to keep the same size."""
        return self.atoms.couple(first, second, f"{self.where} joins them with a dimension of fixed size")

    def meeting(self, nodes: Iterable[Node], back: int, size: int) -> Ids | None:
        """Couple a dimension of several tensors, counted from behind; one of another size, as 1, takes no part."""
        first: Ids | None = None
        for number, ids in enumerate([self._at(node, back) for node in nodes if self._size(node, back) == size > 1]):
            if number == 0:
                first = ids
            elif first is not None or ids is not None:
                first = self.couple(first, ids)
        return first

    def _at(self, node: Node, back: int) -> Ids | None:
        return self.dims_of(node)[-back]

    @staticmethod
    def _size(node: Node, back: int) -> int:
        shape = shape_of(node)
        return shape[-back] if len(shape) >= back else 1

    def produce(self, ids: Ids | None) -> Ids | None:
        """Channels that a layer's weight makes."""
        self.atoms.producers.update(self.atoms.slots_of(ids))
        return ids

    def consume(self, channels: Ids | None, ids: Ids | None) -> None:
        """Channels that a layer's weight reads."""
        self.atoms.consumers.update(self.atoms.slots_of(ids))
        self.couple(channels, ids)


def fixed(rank: int) -> Dims:
    """Dimensions that carry no channels."""
    return (None,) * rank
