"""Phrases are plain texts that can be said in another language."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.phrases import Phrase, listed, phrase, reworded, together

GERMAN = {
    "{count} cores ({which})": "{count} Kerne ({which})",
    "all of them": "alle",
    "{one}, {other}": "{one}; {other}",
    "{one} and {other}": "{one} und {other}",
    "{told}: too warm": "{told}: zu warm",
    "{celsius:.0f} °C": "{celsius:.1f} Grad",
    "broken {a}": "kaputt {b}",
    "spoilt {a}": "verdorben {a",
}


def german(text: str) -> str:
    return reworded(text, lambda template: GERMAN.get(template, template))


def test_a_phrase_is_its_english_text() -> None:
    told = phrase("{count} cores ({which})", count=4, which="0-3")
    assert told == "4 cores (0-3)"
    assert isinstance(told, str)
    assert hash(told) == hash("4 cores (0-3)")  # a dict finds it by its text
    assert told in {"4 cores (0-3)": 1}
    assert german(told) == "4 Kerne (0-3)"
    assert type(german(told)) is str


def test_phrases_within_phrases_are_said_too() -> None:
    inner = phrase("{count} cores ({which})", count=8, which=phrase("all of them"))
    told = listed([phrase("{told}: too warm", told=inner), phrase("{celsius:.0f} °C", celsius=81.34), "plain, text"])
    assert told == "8 cores (all of them): too warm, 81 °C, plain, text"
    assert german(told) == "8 Kerne (alle): zu warm; 81.3 Grad; plain, text"


@pytest.mark.parametrize("name", ["broken", "spoilt"])
def test_a_translation_that_does_not_fit_leaves_the_english(name: str) -> None:
    assert german(phrase(name + " {a}", a=phrase("all of them"))) == f"{name} alle"


def test_a_template_that_asks_for_what_is_not_given_is_refused_at_once() -> None:
    with pytest.raises(KeyError):
        phrase("{count} cores", number=3)


def test_short_lists() -> None:
    assert listed([]) == together([]) == ""
    assert listed(["a"]) == german(listed(["a"])) == together(["a"]) == "a"
    assert german(listed([phrase("all of them")])) == "alle"
    assert together(["a", "b", phrase("all of them")]) == "a and b and all of them"
    assert german(together(["a", "b", phrase("all of them")])) == "a und b und alle"


@given(st.text(), st.lists(st.text(), max_size=4))
def test_values_are_never_taken_for_templates(value: str, parts: list[str]) -> None:
    """Braces in a path or in a bundle's name stay what they are."""
    assert phrase("{value}!", value=value) == value + "!"
    assert german(phrase("{value}!", value=value)) == value + "!"
    assert listed(parts) == ", ".join(parts)
    assert german(listed(parts)) == "; ".join(parts)
    assert german(together(parts)) == " und ".join(parts)


@pytest.mark.parametrize("again", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy])
def test_a_copy_can_still_be_translated(again) -> None:  # type: ignore[no-untyped-def]
    told = again(phrase("{count} cores ({which})", count=2, which=phrase("all of them")))
    assert isinstance(told, Phrase)
    assert german(told) == "2 Kerne (alle)"
