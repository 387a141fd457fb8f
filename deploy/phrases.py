"""Phrases: English texts that remember what they were made of, so that a window can say them in another language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

Values = Mapping[str, str | float]


class Phrase(str):
    """A finished text, in English, and how it came about; a plain `str` to everybody who does not ask.

    template: with a name in braces for each value, as `str.format` takes it. values: by name; phrases among them are
    said in the other language too.
    """

    template: str
    values: Values

    def __new__(cls, template: str, values: Values) -> Phrase:
        """Make the text. Raises KeyError, IndexError or ValueError where the template asks for other values."""
        made = super().__new__(cls, template.format(**values))
        made.template, made.values = template, dict(values)
        return made

    def __getnewargs__(self) -> tuple[str, Values]:  # type: ignore[override]
        """Return what copies and pickles are made of."""
        return self.template, self.values


def phrase(template: str, **values: str | float) -> Phrase:
    """Return a text with its values put in; see `Phrase`. The template is a literal: `pylupdate5` collects those."""
    return Phrase(template, values)


def listed(parts: Sequence[str]) -> str:
    """Return parts with commas between, "" for none. In another language each part is said by itself, commas too."""
    return reduce(lambda one, other: phrase("{one}, {other}", one=one, other=other), parts) if parts else ""


def together(parts: Sequence[str]) -> str:
    """Return parts with the word "and" between, "" for none; otherwise like `listed`."""
    return reduce(lambda one, other: phrase("{one} and {other}", one=one, other=other), parts) if parts else ""


def reworded(text: str, translate: Callable[[str], str]) -> str:
    """Return a text in another language, as a plain `str`; a text that is no phrase stays as it is.

    translate: template to template, unknown ones as they are. Raises nothing where the other template does not fit the
    values (another name, a broken brace): the English template is used then.
    """
    if not isinstance(text, Phrase):
        return text
    values = {name: reworded(v, translate) if isinstance(v, str) else v for name, v in text.values.items()}
    try:
        return translate(text.template).format(**values)
    except (KeyError, IndexError, ValueError):
        return text.template.format(**values)
