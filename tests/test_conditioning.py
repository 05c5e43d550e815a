"""Protects: which fields a window cuts, and that conditionings travel through jit as trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import PER_FRAME, Conditioning


def full(batch: int = 2, frames: int = 6) -> Conditioning:
    per_frame = {
        "spatial": jnp.arange(batch * frames * 8, dtype=jnp.float32).reshape(batch, frames, 2, 2, 2),
        "audio": jnp.arange(batch * frames * 6, dtype=jnp.float32).reshape(batch, frames, 2, 3),
        "motion": jnp.arange(batch * frames * 3, dtype=jnp.float32).reshape(batch, frames, 1, 3),
    }
    per_frame |= {
        "control": 3 * per_frame["spatial"],
        "known": per_frame["spatial"] + 1,
        "given": per_frame["motion"][:, :, 0, 0],
    }
    halves = (per_frame["spatial"], 2 * per_frame["spatial"][:, :, ::2])
    per_frame |= {"level_residuals": halves, "skip_residuals": halves[::-1]}
    return Conditioning(
        image_tokens=jnp.ones((batch, 5, 4)), reference={"mid": jnp.ones((batch, 4, 3))},
        reference_mask=jnp.ones(batch), text=jnp.ones((batch, 7, 4)), **per_frame,
    )  # fmt: skip


def test_a_window_cuts_the_frames_of_per_frame_fields_and_nothing_else():
    whole = full()
    cut = whole.window(2, 3)
    for name in PER_FRAME:
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, 2:5]), getattr(cut, name), getattr(whole, name))
    for name in ("image_tokens", "text", "reference_mask"):
        assert getattr(cut, name) is getattr(whole, name)
    assert cut.reference == whole.reference
    assert cut.frame_counts() == dict.fromkeys(PER_FRAME, 3)


def test_a_windows_start_may_be_traced():
    whole = full()
    cut = jax.jit(lambda conditioning, start: conditioning.window(start, 2).audio)
    for start in (0, 3):
        np.testing.assert_array_equal(cut(whole, start), whole.audio[:, start : start + 2])
    assert cut._cache_size() == 1


def test_fields_that_are_absent_stay_absent():
    empty = Conditioning().window(3, 2)
    assert empty.frame_counts() == {} and jax.tree.leaves(empty) == []


def test_repeating_keeps_the_copies_of_an_item_together():
    repeated = full().repeat(3)
    np.testing.assert_array_equal(repeated.audio, jnp.repeat(full().audio, 3, axis=0))
    assert repeated.reference["mid"].shape == (6, 4, 3)
