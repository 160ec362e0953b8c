"""One small registry: register, look up, list, suggest.

Encoders, decoders, models and losses each live in an instance of :class:`Registry`. A registered
builder is a callable whose *keyword-only* parameters are its options, so that an option
can be checked before anything is built.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from torch import nn

from citysegzoo.base import Decoder, Encoder

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


class Registry(Generic[Builder]):
    """Named builders of one kind.

    Args:
        kind: What the builders build, as used in messages ("encoder", "decoder", "model").
        required: Keyword-only parameters with a default that every builder must have.
        note: What else is built by name, as the end of a sentence.
    """

    def __init__(self, kind: str, *, required: tuple[str, ...] = (), note: str = "") -> None:
        self.kind = kind
        self.note = note
        self.required = required
        self._builders: dict[str, Builder] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorator that adds a builder under ``name``.

        Raises:
            ValueError: If the name is taken or is not made of lower-case letters, digits,
                ``_`` and ``-`` (a ``.`` separates a model's variant and is not part of a name).
            TypeError: If the builder lacks a required parameter.
        """
        check_name(self.kind, name)
        if not re.fullmatch(r"[a-z0-9][a-z0-9_\-]*", name):
            raise ValueError(
                f"{name!r} is no name for a {self.kind}: use lower-case letters, digits, '_', '-'."
            )

        def add(builder: Builder) -> Builder:
            there = self._builders.get(name)
            # What is defined anew, as in a notebook's cell that is run again, replaces itself.
            if there is not None and _place(there) != _place(builder):
                raise ValueError(
                    f"another {self.kind} is registered as {name!r} already; choose another name."
                )
            options = options_of(builder)
            for parameter in self.required:
                if options.get(parameter, inspect.Parameter.empty) is inspect.Parameter.empty:
                    raise TypeError(
                        f"the builder of {self.kind} {name!r} needs a keyword-only parameter "
                        f"{parameter!r} with a default, such as `*, {parameter}: int = 3`."
                    )
            self._builders[name] = builder
            return builder

        return add

    def __getitem__(self, name: str) -> Builder:
        check_name(self.kind, name)
        if name not in self._builders:
            hint = suggestion(name, self._builders) or f"; there are {', '.join(self.names())}"
            raise ValueError(f"there is no {self.kind} {name!r}{hint}{self.note}.")
        return self._builders[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builders

    def names(self, pattern: str | None = None) -> list[str]:
        """The names that match a shell-style pattern, all by default, in natural order.

        (``resnet18`` comes before ``resnet101``.)
        """
        return natural_sorted(
            name for name in self._builders if pattern is None or fnmatchcase(name, pattern)
        )

    def checked(
        self, name: str, options: Mapping[str, Any], *, beside: Iterable[str] = ()
    ) -> Builder:
        """The builder of ``name``, once its options are found to be ones it has."""
        builder = self[name]
        check_options(f"{self.kind} {name!r}", builder, options, beside=beside)
        return builder


def _place(builder: Callable[..., Any]) -> tuple[object, ...]:
    """Where a function or class is defined; of a partial, itself."""
    name = getattr(builder, "__qualname__", None)
    return (builder,) if name is None else (builder.__module__, name)


def check_name(kind: str, name: object) -> None:
    """Raise ``TypeError`` for a name that is no string."""
    if not isinstance(name, str):
        raise TypeError(f"a {kind} is asked for by its name, a string, not {name!r}.")


def options_of(builder: Callable[..., Any]) -> dict[str, Any]:
    """The options of a builder and their defaults: its keyword-only parameters."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(builder).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def function_of(builder: Callable[..., Any]) -> Callable[..., Any]:
    """What a builder is made of: a family registers its members as partials of one function."""
    function: Callable[..., Any] = getattr(builder, "func", builder)
    return function


def check_mapping(what: str, options: object) -> None:
    """Raise a TypeError if options, unless None, are no mapping, or set what the model sets."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"{what} is a dict of options, not {options!r}.")
    if options and "in_channels" in options:
        raise TypeError(f"in_channels is none of {what}; give it beside them.")


def check_options(
    what: str,
    builder: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    hidden: Iterable[str] = (),
    beside: Iterable[str] = (),
) -> None:
    """Raise ``TypeError`` for an option that ``builder`` does not have, naming the nearest one.

    An option whose default is True or False takes nothing else: ``"false"`` would count as true.

    Args:
        what: The thing being built, as it should appear in the message.
        builder: A callable whose keyword-only parameters are its options.
        options: The options asked for.
        hidden: Parameters that are set by other means and are no options here.
        beside: What the caller takes itself beside the options: may have been meant.
    """
    left = {*hidden, *beside}
    known = {name: v for name, v in options_of(builder).items() if name not in left}
    for name, value in options.items():
        if name not in known:
            there = list(dict.fromkeys([*beside, *known]))
            raise TypeError(
                f"{what} has no option {name!r}{suggestion(name, there)}; "
                f"its options are: {', '.join(there) or 'none'}."
            )
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise TypeError(f"{name} of {what} is True or False, not {value!r}.")


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x' or 'y'"``, the end of a message, or nothing where nothing is near."""
    names, typed = natural_sorted(known), name.lower()
    # Where many go on from what was typed, as from a family, they are too long to be alike.
    longer = [name for name in names if len(typed) > 2 and name.startswith(typed)]
    alike = difflib.get_close_matches(typed, names, n=3, cutoff=0.5)
    near = list(dict.fromkeys([*longer, *alike]))[:3]
    return f"; did you mean {' or '.join(repr(match) for match in near)}" if near else ""


def natural_sorted(names: Iterable[str]) -> list[str]:
    """Sort names so that numbers inside them count as numbers."""
    return sorted(
        names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]
    )


ENCODERS: Registry[Callable[..., Encoder]] = Registry(
    "encoder", note="; timm's backbones are 'timm/' and their names"
)
DECODERS: Registry[Callable[..., Decoder]] = Registry("decoder")

MODEL_ARGUMENTS = ("num_classes", "in_channels")
"""What every model builder takes; the rest of its parameters are its options."""
MODELS: Registry[Callable[..., nn.Module]] = Registry("model", required=MODEL_ARGUMENTS)
LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss")

register_encoder = ENCODERS.register
register_decoder = DECODERS.register
register_model = MODELS.register
register_loss = LOSSES.register
