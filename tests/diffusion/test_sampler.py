"""Protects the sampling loop, with a dummy network that reads every input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, identity
from portrait_jax.diffusion.sampler import guided, guided_step, sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.system import SamplingConfig, guidance_of

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)
SHAPE = (2, 3, 4, 4, 2)
NOISE = jax.random.normal(jax.random.key(0), SHAPE)


def denoise(x, timestep, conditioning):
    """Depends on latents, timestep, image tokens, reference and its mask, and the spatial residual."""
    tokens = conditioning.image_tokens.mean((1, 2))
    reference = conditioning.reference["block"].mean((1, 2)) * conditioning.reference_mask
    item = (tokens + reference + timestep / 1000)[:, None, None, None, None]
    return jnp.tanh(x + item + conditioning.spatial) + 0.1 * x.mean(1, keepdims=True)


def conditionings():
    keys = jax.random.split(jax.random.key(1), 3)
    cond = Conditioning(
        image_tokens=jax.random.normal(keys[0], (2, 5, 3)),
        reference={"block": jax.random.normal(keys[1], (2, 4, 3))},
        reference_mask=jnp.ones(2),
        spatial=jax.random.normal(keys[2], SHAPE),
    )
    uncond = cond.replace(image_tokens=jnp.zeros((2, 5, 3)), reference_mask=jnp.zeros(2))
    return {"cond": cond, "uncond": uncond}


def plain_loop(solver, scale):
    """The same sampling as simply as it can be written."""
    branches, state, evaluate, step = conditionings(), solver.init(NOISE), jax.jit(denoise), jax.jit(solver.step)
    for index, timestep in enumerate(solver.timesteps):
        told = jnp.full(2, timestep)
        cond, uncond = (evaluate(solver.result(state), told, branches[name]) for name in ("cond", "uncond"))
        state = step(state, uncond + scale * (cond - uncond), index)
    return solver.result(state)


@pytest.mark.parametrize(("name", "batched"), [*((name, True) for name in sorted(SOLVERS)), ("ddim", False)])
def test_scan_equals_a_plain_python_loop(name, batched):
    solver = make_solver(name, SCHEDULE, 5)
    run = jax.jit(lambda noise, given: sample(denoise, noise, given, solver, classifier_free(3.5), batched=batched))
    found = run(NOISE, conditionings())
    np.testing.assert_allclose(found, plain_loop(solver, 3.5), atol=1e-6)


def test_scale_one_equals_sampling_without_guidance():
    solver = make_solver("ddim", SCHEDULE, 4)
    alone = {"cond": conditionings()["cond"]}
    guided = sample(denoise, NOISE, conditionings(), solver, classifier_free(1.0))
    np.testing.assert_array_equal(guided, sample(denoise, NOISE, alone, solver, identity()))


def test_the_network_is_traced_as_often_for_forty_steps_as_for_two_and_never_again():
    traces = []

    def counting(x, timestep, conditioning):
        traces.append(x.shape)
        return denoise(x, timestep, conditioning)

    def traced(steps):
        solver = make_solver("dpmpp_2m", SCHEDULE, steps)
        run = jax.jit(lambda noise, given: sample(counting, noise, given, solver, classifier_free(2.0)))
        before = len(traces)
        run(NOISE, conditionings())
        after = len(traces)
        run(NOISE + 1, jax.tree.map(lambda leaf: leaf * 2, conditionings()))
        assert len(traces) == after, "new values of the same shapes must not trace again"
        return after - before

    assert traced(2) == traced(40) <= 2
    assert set(traces) == {(4, *SHAPE[1:])}, "both branches run as one batch"


def test_over_a_mesh_each_device_runs_its_own_clip_and_branch():
    """Two clips with two branches on four devices: what the network computes on a device is one item."""
    solver, rule, mesh = make_solver("ddim", SCHEDULE, 3), classifier_free(2.0), make_mesh(data=2, fsdp=2)
    alone = jax.jit(lambda noise, given: sample(denoise, noise, given, solver, rule))
    shared = jax.jit(lambda noise, given: sample(denoise, noise, given, solver, rule))
    with jax.set_mesh(mesh):
        compiled = shared.lower(NOISE, conditionings()).compile().as_text()
        found = shared(NOISE, conditionings())
    np.testing.assert_allclose(found, alone(NOISE, conditionings()), atol=1e-5)
    assert set(re.findall(r"= f32\[([\d,]+)\]\S* tanh\(", compiled)) == {"1,3,4,4,2"}


def test_timesteps_reach_the_network_one_per_item_and_in_order():
    solver = make_solver("ddim", SCHEDULE, 5)
    seen = []

    def telling(x, timestep, conditioning):
        jax.debug.callback(lambda t: seen.append(np.asarray(t).tolist()), timestep, ordered=True)
        return x

    sample(telling, NOISE, {"cond": Conditioning()}, solver, identity()).block_until_ready()
    jax.effects_barrier()
    assert seen == [[t, t] for t in solver.timesteps.tolist()]


def test_step_noise_of_a_stochastic_solver_changes_the_sample_reproducibly():
    solver = make_solver("ddim", SCHEDULE, 4, eta=1.0)

    def run(seed):
        key = jax.random.key(seed)
        step_noise = lambda index: jax.random.normal(jax.random.fold_in(key, index), SHAPE)  # noqa: E731
        return sample(denoise, NOISE, conditionings(), solver, classifier_free(2.0), step_noise=step_noise)

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.allclose(run(0), run(1))


def test_what_branches_of_bfloat16_differ_by_is_scaled_in_float32():
    """1 + 3.5 · (1 + 2⁻⁷ − 1) is no number of bfloat16."""
    step = 1 + 2.0**-7
    values = {"cond": jnp.full((1, 1, 1, 1, 1), step, jnp.bfloat16), "uncond": jnp.ones((1, 1, 1, 1, 1), jnp.bfloat16)}

    def narrow(x, timestep, conditioning):
        return conditioning.spatial

    told = {name: Conditioning(spatial=value) for name, value in values.items()}
    for batched in (True, False):
        predict = guided(narrow, told, classifier_free(3.5), batched=batched)
        assert float(predict(jnp.zeros((1, 1, 1, 1, 1)), jnp.zeros(())).item()) == 1 + 3.5 * 2.0**-7


def test_a_missing_branch_is_named():
    with pytest.raises(ConfigError, match="needs a conditioning named 'uncond'"):
        given = {"cond": conditionings()["cond"]}
        sample(denoise, NOISE, given, make_solver("ddim", SCHEDULE, 2), classifier_free(2.0))


def test_branches_with_other_fields_cannot_form_a_batch_but_run_one_by_one():
    given = {"cond": Conditioning(spatial=NOISE), "uncond": Conditioning()}
    solver = make_solver("ddim", SCHEDULE, 2)

    def lenient(x, timestep, conditioning):
        return x if conditioning.spatial is None else x + conditioning.spatial

    with pytest.raises(ShapeError, match=r"'uncond' and 'cond'.*spatial absent and \(2, 3, 4, 4, 2\).*batched=False"):
        sample(lenient, NOISE, given, solver, classifier_free(2.0))
    assert np.all(np.isfinite(sample(lenient, NOISE, given, solver, classifier_free(2.0), batched=False)))


def test_guidance_acts_in_its_interval_alone():
    """Of five steps the second to the fourth are guided; a loop by hand says what the others are."""
    solver = make_solver("ddim", SCHEDULE, 5, "v", "trailing")
    rule = guidance_of(SamplingConfig(guidance=3.0, guidance_interval=(0.2, 0.8)))
    assert rule.active(5).tolist() == [False, True, True, True, False]
    found = jax.jit(lambda: sample(denoise, NOISE, conditionings(), solver, rule))()
    steps = {name: guided_step(denoise, conditionings(), solver, each)
             for name, each in {"all": classifier_free(3.0), "one": identity()}.items()}  # fmt: skip
    state = solver.init(NOISE)
    for index in range(5):
        state = steps["all" if index in (1, 2, 3) else "one"](state, index)
    np.testing.assert_allclose(found, solver.result(state), atol=1e-5)
    assert np.abs(found - sample(denoise, NOISE, conditionings(), solver, classifier_free(3.0))).max() > 1e-2


def test_a_whole_interval_and_a_single_branch_need_no_choice():
    assert guidance_of(SamplingConfig(guidance=3.0)).active(5) is None
    assert guidance_of(SamplingConfig(guidance=1.0, guidance_interval=(0.5, 1.0))).active(5) is None
    with pytest.raises(ConfigError, match="two shares of the steps, in order"):
        guidance_of(SamplingConfig(guidance_interval=(0.8, 0.2)))
