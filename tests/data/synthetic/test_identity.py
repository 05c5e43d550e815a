"""People are decided by their seed alone, differ from each other, and never cross the line between the splits."""

import numpy as np
import pytest

from data.synthetic import ATTRIBUTE_NAMES, identity_attributes, sample_identity, split_seed
from data.synthetic.identity import COLORS, TRAITS


def test_a_seed_always_gives_the_same_person():
    assert sample_identity(11) == sample_identity(11)
    assert sample_identity(11) != sample_identity(12)


def test_train_and_test_identities_are_disjoint():
    train = {split_seed("train", i) for i in range(500)}
    test = {split_seed("test", i) for i in range(500)}
    assert len(train) == len(test) == 500
    assert not train & test


def test_an_unknown_split_or_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="train, test"):
        split_seed("validation", 0)
    with pytest.raises(ValueError, match="negative"):
        split_seed("train", -1)


def test_traits_stay_in_their_ranges_and_colours_are_colours():
    for seed in range(60):
        person = sample_identity(seed)
        for name, (low, high) in TRAITS.items():
            assert low <= person.traits[name] <= high
        for name in COLORS:
            assert all(0 <= channel <= 255 for channel in person.colors[name])
        assert np.hypot(*person.light) == pytest.approx(1.0)


def test_attributes_are_standardised_and_tell_people_apart():
    table = np.stack([identity_attributes(sample_identity(seed)) for seed in range(300)])
    assert table.shape == (300, len(ATTRIBUTE_NAMES))
    assert table.dtype == np.float32
    traits = table[:, : len(TRAITS)]
    np.testing.assert_allclose(traits.mean(0), 0.0, atol=0.25)
    np.testing.assert_allclose(traits.std(0), 1.0, atol=0.2)
    assert len(np.unique(table.round(3), axis=0)) == 300


def test_two_hundred_people_wear_nearly_two_hundred_looks():
    looks = {tuple(sorted(sample_identity(seed).styles.items())) for seed in range(200)}
    assert len(looks) > 170
