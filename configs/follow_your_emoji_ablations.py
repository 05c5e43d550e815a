"""Ablations of the paper's table 2 at demo size, as data: what each changes of the whole system.

    python -m launch.train --config configs/follow_your_emoji.py:ablation_full_stage1 --workdir runs/ablations
    python -m launch.train --config configs/follow_your_emoji.py:ablation_full_stage2 --workdir runs/ablations
    python -m launch.evaluate --config configs/follow_your_emoji.py:ablation_full \\
        --checkpoint runs/ablations/ablation_full_stage2 --output runs/ablations/full

and alike for every other name. `full` has all that the paper proposes; an ablation takes one thing away, or puts one back.
"""

ABLATIONS = {
    "full": {},
    # "w/o expression mask", "w/o facial mask": the fine-grained loss looks at the other region alone (§3.2).
    "no_expression_mask": {"loss.masks": ("oval_mask",)},
    "no_face_mask": {"loss.masks": ("expression_mask",)},
    # "w/o progressive strategy": no masked latents, long videos from overlapping windows (§3.3).
    "no_progressive": {"model.progressive": "none", "sampling.strategy": "overlap", "loss.blank": 0.0},
    # "2D landmark": the parts that older systems draw, where the driver's own face has them, without pupils.
    "plain_landmarks": {
        "model.drawing_style": "smooth_plain",
        "data.drawing": "smooth_plain",
        "sampling.alignment": "none",
    },
    # "w/ facial contour" and "w/o pupil": what the drawing shows (§3.1).
    "contour": {"model.drawing_style": "smooth_contour", "data.drawing": "smooth_contour"},
    "no_pupils": {"model.drawing_style": "smooth_no_pupils", "data.drawing": "smooth_no_pupils"},
}
"""Name → config keys that differ from `full`."""

SHARED_STAGE1 = {"no_progressive": "full"}
"""Ablations that change nothing of the first stage → whose first stage they go on from."""


def first_stage(name: str) -> str:
    """The first stage that an ablation's second one starts from."""
    return f"ablation_{SHARED_STAGE1.get(name, name)}_stage1"
