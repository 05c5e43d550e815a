"""Protects: who learns from the dual head, its terms and weights, and that absent judges are said to be off."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adversarial.head import ADVERSARY, JUDGES, TRAINABLE, DualHead, HeadWeights
from portrait_jax.adversarial.networks import PictureConfig
from portrait_jax.encoders.resnet import ResNetConfig
from portrait_jax.encoders.vgg import VGGConfig
from portrait_jax.training.state import flatten, partition, unflatten
from tests import tiny

JUDGE = VGGConfig(layers=(1, 1), channels=(4, 6))
HEAD = DualHead(
    PictureConfig(channels=(6, 6, 4, 4), style=8, group=2),
    ResNetConfig(layers=(1, 1, 1, 1), channels=(4, 4, 6, 6)),
    appearance=6,
    motion=5,
    judges={"vgg19": JUDGE, "vggface": JUDGE},
)


@dataclasses.dataclass(frozen=True)
class Untrained:
    """`tests.tiny.make_params` asks for a system's `init`."""

    head: DualHead

    def init(self, rng):
        return self.head.init(rng)


@pytest.fixture(scope="module")
def params():
    drawn = flatten(tiny.make_params(Untrained(HEAD)))
    return unflatten({name: jnp.abs(leaf) + 0.5 if "running_var" in name else leaf for name, leaf in drawn.items()})


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    motion = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    pictures = [jnp.asarray(rng.uniform(size=(2, 32, 32, 3)), jnp.float32) for _ in range(2)]
    return motion, *pictures


@pytest.fixture(scope="module")
def sides(params, inputs):
    """Values, metrics and gradients of both losses with respect to parameters and motion."""
    slopes = [jax.value_and_grad(loss, (0, 1), has_aux=True) for loss in (HEAD.loss, HEAD.adversary_loss)]
    return jax.jit(lambda *args: tuple(slope(*args) for slope in slopes))(params, *inputs)


def test_the_loss_is_the_weighted_sum_of_its_terms(sides):
    (loss, terms), _ = sides[0]
    weights = dataclasses.asdict(HeadWeights())
    assert set(terms) == {f"gan_{name}" for name in weights}
    wanted = sum(weight * float(terms[f"gan_{name}"]) for name, weight in weights.items())
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert weights == {"adversarial": 1.0, "recon": 1.0, "feature_matching": 10.0, "vgg19": 3e-2, "vggface": 6e-3}


def test_the_gradient_reaches_motion_appearance_and_generator(sides, params):
    _, (slopes, motion) = sides[0]
    assert np.abs(motion).max() > 0, "this is what teaches the motion encoder"
    own, _ = partition(slopes, TRAINABLE)
    still = [name for name, leaf in flatten(own).items() if not np.abs(leaf).max() > 0]
    assert still == []
    assert not [name for name in flatten(partition(params, TRAINABLE)[0]) if "running" in name]


def test_the_adversary_learns_alone(sides):
    _, (slopes, motion) = sides[1]
    theirs, others = partition(slopes, ADVERSARY)
    assert np.abs(motion).max() == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(others))
    moved = {name for name, leaf in flatten(theirs).items() if np.abs(leaf).max() > 0}
    # Where both kinds of pictures switch the same units, the last biases move both scores alike: no slope inside the hinges.
    last = {f"gan_discriminator/{layer}/bias" for layer in ("score", "dense", "conv_last")}
    assert flatten(theirs).keys() - moved <= last and len(moved) > 6


def test_a_few_steps_redraw_two_faces_that_only_motion_tells_apart(params, inputs):
    # One portrait, a light and a grey target: without listening to motion no picture is nearer to both than 0.4.
    head = dataclasses.replace(HEAD, weights=HeadWeights(0.0, 1.0, 0.0, 0.0, 0.0))
    motion, portrait, _ = inputs
    target = jnp.broadcast_to(jnp.array([0.9, 0.5])[:, None, None, None], portrait.shape)
    own, rest = partition(params, (r"gan_generator/.*",))

    @jax.jit
    def step(own):
        def loss(own):
            return head.loss({**rest, **own}, motion, jnp.zeros_like(portrait), target)[0]

        value, slopes = jax.value_and_grad(loss)(own)
        return value, jax.tree.map(lambda leaf, slope: leaf - 0.02 * jnp.sign(slope), own, slopes)

    values = []
    for _ in range(80):
        value, own = step(own)
        values.append(float(value))
    assert min(values[-10:]) < 0.3 < values[0], values[::10]


def test_judges_without_weights_are_off_and_said_to_be():
    with pytest.warns(UserWarning, match="perceptual loss of vggface is off.*launch.convert.*init_from.vggface=FILE"):
        head = HEAD.with_weights_of(["*", "vgg19"])
    assert head.perceptual == ("vgg19",)
    assert "vggface" not in jax.eval_shape(head.init, jax.random.key(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert HEAD.with_weights_of(JUDGES) == HEAD


@pytest.mark.slow
def test_full_size_lowers_from_shapes():
    head = DualHead()
    params = jax.eval_shape(head.init, jax.random.key(0))
    picture = jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.float32)
    motion = jax.ShapeDtypeStruct((4, 512), jnp.float32)
    for loss in (head.loss, head.adversary_loss):
        (value, _), slopes = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params, motion, picture, picture)
        assert value.shape == () and jax.tree.structure(slopes) == jax.tree.structure(params)
