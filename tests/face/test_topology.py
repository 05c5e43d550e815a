"""The landmark table is complete and symmetric."""

from portrait_jax.face.topology import EXPRESSION_POINTS, EYES, JAW, LIP_PAIRS, NUM_LANDMARKS, OVAL, PARTS, PUPILS


def test_the_expression_points_are_what_the_drawing_shows():
    drawn = {point for part in PARTS for chain in part.chains for point in chain} | set(PUPILS)
    assert set(EXPRESSION_POINTS) == drawn and len(EXPRESSION_POINTS) == len(drawn) == 32 + 20 + 20 + 2


def test_all_points_exist_and_no_ring_repeats_one():
    assert max(EXPRESSION_POINTS + OVAL) < NUM_LANDMARKS
    assert len(set(OVAL)) == len(OVAL) == 36 and set(JAW) < set(OVAL)


def test_eyes_have_sixteen_contour_points_and_seven_lid_pairs():
    for eye in EYES:
        assert len(eye.contour) == 16 and len(eye.lids) == 7
        assert {point for pair in eye.lids for point in pair} | set(eye.corners) == set(eye.contour)


def test_lip_pairs_join_points_at_the_same_place_across_the_mouth():
    assert len(LIP_PAIRS) == 9 and (13, 14) in LIP_PAIRS and (80, 88) in LIP_PAIRS and (310, 318) in LIP_PAIRS
