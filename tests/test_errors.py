"""Protects: what messages say about lists and likely corrections."""

from __future__ import annotations

import inspect

from portrait_jax import errors


def test_long_lists_are_cut_and_counted():
    assert errors.listed(["b", "a"]) == "a, b"
    assert errors.listed([f"n{i:02}" for i in range(22)]).endswith("n08, n09 … and 12 more")


def test_the_likeliest_correction_is_named_or_else_the_choices():
    assert errors.nearest("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert errors.nearest("xyz", ["steps", "seed"]) == "; known are: seed, steps"


def test_every_error_a_user_can_mend_is_a_portrait_error_with_a_docstring():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert len(kinds) > 8 and all(issubclass(kind, errors.PortraitError) and kind.__doc__ for kind in kinds)
