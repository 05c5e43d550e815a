"""Ablations of the paper's table 2 at demo size, as data: what each changes of the whole system.

    python -m launch.train --config configs/xnemo.py:ablation_no_masking_stage1 --workdir runs/ablations

then `_motion`, `_stage2` and `_stage3`; `ablation_no_masking` animates and is evaluated. Alike for every other name. `full` has
all that the paper proposes; an ablation takes one thing away. All share the demo's warm-up of the motion encoder on landmarks
(`_motion`), and say what teaches it after that; none has the demo's teacher.
"""

ABLATIONS = {
    "full": {},
    # "w/o GAN head": the diffusion loss alone teaches the motion encoder after the warm-up.
    "no_gan_head": {"loss.head": False},
    # "w/o end-to-end": the head alone does, and the diffusion loss takes it as it is.
    "not_end_to_end": {"loss.end_to_end": False},
    # "w/o masking": all reference tokens are seen (§3.3).
    "no_masking": {"loss.mask": 0.0},
    # "w/o augmentation": the encoder sees the driving face in its own shape and colours (§3.3).
    "no_augmentation": {
        "augmentation.brightness": 0.0,
        "augmentation.contrast": 0.0,
        "augmentation.saturation": 0.0,
        "augmentation.hue": 0.0,
        "augmentation.scale": 0.0,
        "augmentation.uneven": 0.0,
        "augmentation.bend": 0.0,
    },
    # "w/o cross-attention": motion as a spatial control.
    "spatial_control": {"model.control": "map"},
}
"""Name → config keys that differ from `full`."""
