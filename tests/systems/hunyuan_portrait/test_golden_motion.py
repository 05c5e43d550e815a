"""From face crops and landmarks to the motion of padded frames: the whole way equals the original's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters.motion_memory import MotionMemory
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE
from portrait_jax.encoders.resnet import ResNet
from portrait_jax.face.intensity import frame_levels, motion_levels
from portrait_jax.long_video.ring import ring_tiles
from tests.golden import assert_close, channels_last
from tests.systems.hunyuan_portrait.made import system
from tests.systems.hunyuan_portrait.original import case, memory_config, recipe_of


def test_motion_of_padded_frames_matches_golden():
    golden = case("motion_assembly")
    settings, seeds = golden.config, golden.settings["weights"]["recipe_seeds"]
    memory = memory_config(settings["refiner"])
    made = system(
        memory.out + 6, memory_config=memory, expression_config=replace(EXPRESSION, out=settings["expression_dim"])
    )
    faces, heads = (channels_last(golden.inputs[f"motion_{name}_images"])[None] for name in ("face", "pose"))
    levels = frame_levels(golden.inputs["landmarks"], settings["cfg"]["n_sample_frames"])
    levels = [jnp.asarray(level)[None] for level in levels]
    feature = jnp.zeros((1, 1, 1, settings["refiner"]["input_dim"]))
    params = {
        "expression": recipe_of("expression", ResNet(made.expression_config), seeds["expression"], faces[0]),
        "head_pose": recipe_of("head_pose", ResNet(HEAD_POSE), seeds["headpose"], heads[0]),
        "motion_memory": recipe_of(
            "motion_memory", MotionMemory(memory), seeds["motion_proj"], feature, levels[0][:, :1], levels[1][:, :1]
        ),
    }
    params = {name: tree["params"] for name, tree in params.items()}
    ring = ring_tiles(faces.shape[1], 2, 1, 1, 1, settings["cfg"]["pad_frames"])
    frames = np.arange(ring.frames)
    tokens = jax.jit(made.motion_tokens)(params, faces, heads, *levels)
    motion = tokens[:, ring.shown(frames)] * ring.strength(frames)[:, None, None]
    assert_close(motion, golden.outputs["driven_feat"])
    assert not golden.outputs["uncond_feat"].any() and motion.shape[1] == golden.outputs["num_frames"]


def test_intensities_match_golden():
    golden = case("preprocess")
    for points, expected in zip(
        golden.inputs["intensity_landmarks"], golden.outputs["intensity_head_exp"], strict=True
    ):
        assert motion_levels(points) == tuple(expected)
