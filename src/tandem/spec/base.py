"""How every part of the Run file behaves: camelCase keys, unknown keys refused, values frozen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from tandem.spec.yaml12 import MAX_INTEGER

BROKEN_RULE = "broken_rule"
"""The error type of a rule between fields, as it appears in pydantic's list of errors."""

_FORGIVEN: ContextVar[Collection[str]] = ContextVar("forgiven", default=())


class Section(BaseModel):
    """A part of the Run file."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=False,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @model_validator(mode="after")
    def _check_exactness(self) -> Self:
        given = ((field.alias or name, getattr(self, name)) for name, field in type(self).model_fields.items())
        refuse(
            self,
            [
                BrokenRule(place=(key,), what="is more than 2^53 - 1", remedy="Give a smaller number.")
                for key, value in given
                if isinstance(value, int) and abs(value) > MAX_INTEGER
            ],
        )
        return self


@dataclass(frozen=True, kw_only=True)
class BrokenRule:
    """Fields of a section that do not fit together: the key to blame (a path within the section), and what to do."""

    place: tuple[str | int, ...]
    what: str
    remedy: str


def refuse(section: Section, broken: Sequence[BrokenRule]) -> None:
    """Raise one ValidationError that holds all of these; none, or in a forgiven section: return."""
    if broken and type(section).__name__ not in _FORGIVEN.get():
        raise ValidationError.from_exception_data(
            type(section).__name__,
            [
                InitErrorDetails(
                    type=PydanticCustomError(
                        BROKEN_RULE,
                        "{what}",
                        {"what": rule.what, "remedy": rule.remedy, "section": type(section).__name__},
                    ),
                    loc=rule.place,
                    input=None,
                )
                for rule in broken
            ],
        )


@contextmanager
def forgiving(sections: Collection[str]) -> Iterator[None]:
    """In the block, broken rules of sections of these types are not raised: to see what they hide."""
    token = _FORGIVEN.set(sections)
    try:
        yield
    finally:
        _FORGIVEN.reset(token)


def section_in(annotation: Any) -> type[Section] | None:
    """The section inside a field's annotation, such as `TilesSpec | None` or `tuple[EvalSpec, ...]`; else None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)
