"""Protects what is said of programs that are compiled for machines that are not there: memory, collectives, whether they fit."""

from __future__ import annotations

import json
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch import meshes
from launch.benchmarks.flops import flops
from launch.compiling import command, estimates, hlo, report, sweeps
from launch.compiling.machines import GIB, machine
from launch.compiling.programs import Program, batch_shapes, f32, program, u8
from portrait_jax import systems
from portrait_jax.errors import ConfigError, DeviceError
from portrait_jax.nn import attention as layer
from portrait_jax.settings import compute_dtype
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.target import compiling_for, platform
from tests import tiny, tiny_anyexpress, tiny_hunyuan, tiny_prior, tiny_xnemo
from tests.systems.hallo3 import small as hallo3_small

LOOPED = """HloModule jit_f, is_scheduled=true

%fused_computation (p: f32[8,64]) -> f32[8,64] {
  %p = f32[8,64]{1,0} parameter(0)
  ROOT %inner = f32[9000,9000]{1,0} negate(%p), metadata={op_name="never held"}
}

%body (arg: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %arg = (s32[], bf16[8,64]{1,0}) parameter(0)
  %gather = bf16[64,64]{1,0} all-gather(%w), channel_id=1, dimensions={0}, metadata={op_name="jit(f)/while/layer"}
  ROOT %out = (s32[], bf16[8,64]{1,0}) tuple(%i, %x)
}

%condition (arg.1: (s32[], bf16[8,64])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[8,64]) -> f32[] {
  %x = bf16[8,64]{1,0} parameter(0)
  %loop = (s32[], bf16[8,64]{1,0}) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"42"}}
  %fusion = f32[8,64]{1,0} fusion(%y), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(f)/mul"}
  %started = (f32[8]{0}, f32[8]{0}) all-reduce-start(%z), to_apply=%add
  ROOT %done = f32[8]{0} all-reduce-done(%started)
}
"""


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    assert hlo.collectives(LOOPED) == {
        "all-gather": {"count": 42, "bytes": 42 * 64 * 64 * 2},
        "all-reduce": {"count": 1, "bytes": 8 * 4},
    }


def test_the_largest_arrays_are_held_ones_with_their_place_in_the_program():
    first, second = hlo.largest(LOOPED, 2)
    assert first == {"bytes": 64 * 64 * 2, "shape": "bf16[64,64]", "name": "jit(f)/while/layer"}
    assert second == {"bytes": 8 * 64 * 4, "shape": "f32[8,64]", "name": "jit(f)/mul"}


def test_a_real_program_is_read_as_it_is():
    """A scanned stack whose products are split over what they add up: one reduction of the result a layer."""
    mesh = make_mesh(tensor=8)
    split, alone = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "tensor"), ()))
    layers, width = 5, 64

    def product(x, weight):
        x = jax.lax.with_sharding_constraint(x, split)
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ weight), alone), None

    given = (
        jax.ShapeDtypeStruct((layers, width, width), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((16, width), jnp.float32, sharding=alone),
    )
    traced = jax.jit(lambda weights, x: jax.lax.scan(product, x, weights)[0]).trace(*given)
    found = report.compiled(Program(traced, {"stack": given[0]}, 16), machine("cpu:8"))
    assert found["collectives"]["all-reduce"] == {"count": layers, "bytes": layers * 16 * width * 4}
    assert found["flops"] == 2 * layers * 16 * width * width
    np.testing.assert_allclose(found["parameters_per_chip_gib"]["stack"], layers * width * width * 4 / 8 / GIB)
    assert found["fits"] and found["largest"][0]["bytes"] > 0


def test_a_program_that_is_too_large_does_not_fit():
    mesh = make_mesh(data=8)
    large = jax.ShapeDtypeStruct((1 << 16, 1 << 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    found = report.compiled(Program(jax.jit(lambda x: x + 1).trace(large), {}, 1), machine("cpu:8"))
    assert not found["fits"] and found["peak_gib"] >= 16


def test_a_training_step_is_compiled_from_its_config_alone(monkeypatch, tmp_path, capsys):
    """JSON, lines for people, and status 1 where the memory does not do."""
    file = tmp_path / "found.json"
    request = command.Request(tiny_prior.get_config(), machine("cpu:8"), ["data=2", "fsdp=4"])
    assert command.finish(command.found(request), file) == 0
    made, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert made["fits"] and made["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1} and made["batch"] == 8
    assert made["flops"] > 0 and made["collectives"] and made["peak_gib"] > 0
    assert "fits: peak" in shown and "motion_vqvae:vqvae" in shown
    monkeypatch.setattr(report, "peak_bytes", lambda memory: 17 * GIB)
    assert command.finish(command.found(request), None) == 1 and "does NOT fit" in capsys.readouterr().out


def test_an_estimate_has_the_state_and_operations_of_the_compiled_step(tmp_path, capsys):
    config, file, mesh = tiny_prior.get_config(), tmp_path / "found.json", ["data=2", "fsdp=4"]
    assert command.finish(command.estimate(config, "cpu:8", mesh), file) == 0
    made, shown = json.loads(file.read_text()), capsys.readouterr().out
    (compiled,) = command.found(command.Request(config, machine("cpu:8"), mesh))
    memory = made["memory_gib"]
    state = memory["trained, moments and average"] + memory["frozen"]
    assert state == pytest.approx(compiled["arguments_gib"], rel=0.05)
    assert memory["gradients"] == pytest.approx(compiled["parameters_per_chip_gib"]["trained"])
    assert made["flops"] == pytest.approx(compiled["flops"], rel=0.01) and made["mesh"] == compiled["mesh"]
    assert sum(memory.values()) == pytest.approx(made["about_gib"]) and "may fit: about" in shown
    made["memory_of_chip_gib"], made["fits"] = made["about_gib"] / 2, True
    assert "will hardly fit" in report.estimate_lines(made)[1]
    assert command.finish([{**made, "fits": False}], None) == 1
    assert "does NOT fit, its state alone" in capsys.readouterr().out


def test_what_the_backward_pass_keeps_is_counted_beside_what_is_given_and_as_spread_as_parameters_are():
    def loss(weights, x):
        return jnp.sum(jnp.sin(x @ weights["first"]).astype(jnp.bfloat16) @ weights["second"].astype(jnp.bfloat16))

    shapes = {"first": (16, 32), "second": (32, 8)}
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    given = (weights, jax.ShapeDtypeStruct((5, 16), jnp.float32))
    # The sine's slope in float32, the sine in bfloat16, and the second kernel in bfloat16.
    assert estimates.kept(loss, given, {}) == 5 * 32 * (4 + 2) + 32 * 8 * 2
    assert estimates.kept(loss, given, {(32, 8): (8, 8)}) == 5 * 32 * (4 + 2) + 8 * 8 * 2


def test_an_accumulated_estimate_keeps_one_microbatch_at_a_time():
    config = tiny_prior.get_config()
    whole, parts = [], []
    for accumulate, found in ((1, whole), (4, parts)):
        config.train.accumulate = accumulate
        found.extend(command.estimate(config, "v5e:2x1", ["data=2"]))
    kept = "kept for the backward pass"
    assert parts[0]["memory_gib"][kept] < 0.5 * whole[0]["memory_gib"][kept]
    assert parts[0]["flops"] == pytest.approx(whole[0]["flops"], rel=0.01)


def test_an_estimate_of_a_large_slice_needs_neither_its_devices_nor_its_compiler():
    config = tiny_prior.get_config()
    config.train.batch_size = 64
    (made,) = command.estimate(config, "v5p:4x4x4", ["fsdp=64"])
    assert made["mesh"]["fsdp"] == 64 and made["memory_of_chip_gib"] == 95.0 and made["flops"] > 0
    with pytest.raises(ConfigError, match="batch_size 64 does not split"):
        command.estimate(config, "v5e:16x16", ["fsdp=256"])
    with pytest.raises(ConfigError, match="give the slice's shape"):
        command.estimate(config, "v5e:4xx", [])


def test_an_estimate_of_sampling_counts_windows_steps_and_branches_and_the_portrait_once(capsys):
    """Windows of four frames, of which two are new, in two steps with two branches."""
    config = tiny.get_config("demo_stage2")
    (made,) = command.estimate(config, "v5e:2x2", ["data=2", "fsdp=2"], "sample")
    system = systems.build(config)
    assert (system.sampling.window, system.sampling.overlap, made["solver_steps"]) == (4, 2, 2)
    params, control = jax.eval_shape(system.init, jax.random.key(0)), {"control": u8(1, 4, tiny.SIZE, tiny.SIZE, 3)}
    portrait = jax.jit(system.encode_portrait).trace(params, u8(1, tiny.SIZE, tiny.SIZE, 3))
    told = jax.eval_shape(system.encode_driving, params, jax.eval_shape(lambda: portrait.out_info), control)["cond"]
    noisy = f32(1, 4, *system.latent_shape())
    once = flops(jax.jit(system.denoise).trace(params, noisy, f32(1), told).jaxpr)
    found = made["flops"]
    assert found["solver steps, a frame"] == pytest.approx(once * 2 * 2 / 2, rel=0.02)
    assert found["portrait, once"] == flops(portrait.jaxpr)
    assert found["portrait at every solver step, a frame"] == pytest.approx(found["portrait, once"] * 2 / 2, rel=0.01)
    assert found["decoder, a frame"] == pytest.approx(flops(jax.jit(system.decode).trace(params, noisy).jaxpr) / 4)
    assert command.finish([made], None) == 0 and "may fit" in capsys.readouterr().out
    assert command.finish([{**made, "fits": False}], None) == 1


@pytest.mark.slow
@pytest.mark.parametrize("config", [tiny_hunyuan.get_config, hallo3_small.get_config], ids=["jointly", "continued"])
def test_an_estimate_of_sampling_knows_every_kind_of_windows(config):
    (made,) = command.estimate(config(), "v5p:2x2x1", ["fsdp=4"], "sample")
    whole = made["flops"].get("solver steps and decoder, a frame")
    assert (whole is not None) == made["config"].startswith("hallo3")
    assert (whole or made["flops"]["solver steps, a frame"]) > 0
    assert made["parameters_gib"] < 0.5 and made["fits"]


def test_an_estimate_of_another_program_is_refused():
    with pytest.raises(ConfigError, match="'samples' does not exist; did you mean 'sample'"):
        command.estimate(tiny.get_config(), "v5e:2x2", [], "samples")


def test_the_batch_is_what_the_loader_gives():
    config, mesh = tiny.get_config("demo_stage1"), make_mesh(data=8)
    shapes = batch_shapes(config, 16, 3, mesh)
    size = config.data.size
    assert shapes["frames"].shape == (16, 3, size, size, 3) and shapes["frames"].dtype == jnp.uint8
    assert shapes["frames"].sharding.shard_shape(shapes["frames"].shape)[0] == 2
    assert {"reference", "landmarks", "control", "expression_mask"} <= set(shapes)


SAMPLED = {
    "follow_your_emoji": lambda: tiny.get_config("demo_stage2"),
    "xnemo": lambda: tiny_xnemo.get_config(),
    "anyexpress": lambda: tiny_anyexpress.get_config("demo"),
    "hunyuan_portrait": lambda: tiny_hunyuan.get_config(),
    "hallo3": lambda: hallo3_small.get_config(),
}


@pytest.mark.slow
@pytest.mark.parametrize("system", SAMPLED)
def test_the_sampler_of_every_system_is_traced_from_its_config_alone(system):
    config, mesh = SAMPLED[system](), make_mesh(data=2, fsdp=4)
    made = program("sample", config, mesh, 8)
    assert made.examples == 8 and made.steps >= 1
    assert "num_partitions = 8" in made.traced.lower().as_text()[:2000]
    # Of the portrait everything is encoded before: nothing that only does so is read.
    once = {"reference", "image_encoder", "image_projection", "face_recogniser", "face_projection", "text_encoder"}
    assert read_networks(made).isdisjoint(once) and "denoiser" in read_networks(made)


def read_networks(made: Program) -> set[str]:
    """Sub-networks whose parameters the program computes with; they are its first arguments."""
    jaxpr = made.traced.jaxpr.jaxpr
    leaves = jax.tree.leaves_with_path(made.parameters)
    read = {id(each) for equation in jaxpr.eqns for each in equation.invars}
    return {path[0].key for (path, _), each in zip(leaves, jaxpr.invars) if id(each) in read}


def test_a_mesh_is_said_as_in_a_config():
    config = tiny_prior.get_config()
    assert command.mesh_sizes(config, []) == {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert command.mesh_sizes(config, ["fsdp=-1", "tensor=2"]) == {"data": 1, "fsdp": -1, "tensor": 2, "sequence": 1}
    with pytest.raises(ConfigError, match="did you mean 'fsdp'"):
        meshes.mesh_sizes(["fsdpp=2"])
    with pytest.raises(ConfigError, match="a number of devices, not 'two'"):
        meshes.mesh_sizes(["fsdp=two"])


def test_a_sweep_tries_every_mesh_once_and_puts_what_fits_first():
    tried = []

    def compile_one(config, sizes):
        tried.append(tuple(sizes.values()))
        if sizes["tensor"] == 8:
            raise ConfigError("heads do not divide")
        gathered = {"all-gather": {"count": 1, "bytes": sizes["fsdp"] * 10**9}}
        return {"fits": sizes["fsdp"] >= 4, "ideal_seconds": 1.0, "collectives": gathered, "mesh": sizes}

    made = sweeps.run(tiny_prior.get_config(), machine("cpu:8"), compile_one)
    assert len(set(tried)) == len(tried) and all(prod(sizes) == 8 for sizes in tried)
    fits = [each["fits"] for each in made]
    assert fits == sorted(fits, reverse=True) and made[0]["mesh"]["fsdp"] == 4


def test_every_remat_policy_of_a_system_is_tried():
    config = tiny.get_config("demo_stage1")
    config.model.denoiser.gradient_checkpointing = False
    assert [sweeps.policy_of(each) for each in sweeps.policies(config)] == [False, True]
    assert sweeps.policies(tiny_prior.get_config()) and sweeps.policy_of(tiny_prior.get_config()) is None


def test_what_is_compiled_for_an_accelerator_is_traced_for_it():
    q = jnp.zeros((1, 4096, 1, 64), jnp.bfloat16)
    assert platform() == "cpu" and compute_dtype("auto") == jnp.float32 and layer.choose(q, q) == "pieces"
    with compiling_for("tpu"):
        assert platform() == "tpu" and compute_dtype("auto") == jnp.bfloat16 and layer.choose(q, q) == "splash"
    assert platform() == "cpu"


def test_what_is_no_slice_is_named():
    with pytest.raises(ConfigError, match="did you mean 'v5p'"):
        machine("v5pp:2x2")
    with pytest.raises(ConfigError, match="give how many devices"):
        machine("cpu:2x4")
    with pytest.raises(DeviceError, match="xla_force_host_platform_device_count=99"):
        machine("cpu:99")


@pytest.mark.slow
def test_a_step_compiles_for_a_slice_of_tpus():
    """Needs libtpu, which no lock has."""
    pytest.importorskip("libtpu")
    target, config = machine("v5e:2x4"), tiny_prior.get_config()
    mesh = make_mesh(data=2, fsdp=4, devices=target.devices)
    with compiling_for("tpu"):
        found = report.compiled(program("train", config, mesh, 1), target)
    assert found["fits"] and found["collectives"] and found["peak_gib"] > 0
