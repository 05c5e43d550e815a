"""Parameter files and checkpoints: round trips, and one clear error for each way to be broken."""

import hashlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from portrait_jax.errors import CheckpointError, ConfigError, ShapeError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training.checkpoints import latest_step
from portrait_jax.training.loop import initial_state, train
from portrait_jax.training.params import HEADER, export, identify, initialise, load_params, read_sources, save_params
from portrait_jax.training.state import flatten
from portrait_jax.training.task import LoopOptions
from tests.training.toy import ToyLoader, ToyTask, toy_stage

CONFIG = {"task": "toy", "model": {"width": 8}}


def params():
    return ToyTask().init(jax.random.key(0), "only")


def one_device():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of four steps, and its last state."""
    folder = tmp_path_factory.mktemp("runs")
    task, options = ToyTask(toy_stage(steps=4)), LoopOptions(checkpoint_every=2)
    state = train(
        task, "only", ToyLoader(), folder / "only", options=options, config=CONFIG, mesh=one_device(), quiet=True
    )
    return folder, state


def assert_equal(first, second):
    first, second = flatten(first), flatten(second)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_workdir_gives_its_averaged_parameters_and_config(workdir):
    folder, state = workdir
    for path in (folder, folder / "only"):
        loaded, info = load_params(path)
        assert_equal(loaded, state.averaged_params)
        assert info == {"config": CONFIG, "stage": "only", "step": 4, "weights": "average"}
    assert_equal(load_params(folder, average=False)[0], state.params)
    assert latest_step(folder / "only") == 4 and latest_step(folder) is None


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)])
def test_an_exported_file_loads_again(workdir, tmp_path, dtype, tolerance):
    folder, state = workdir
    info = export(folder, tmp_path / "sub" / "x.safetensors", dtype=dtype)
    loaded, header = load_params(tmp_path / "sub" / "x.safetensors")
    assert header["config"] == CONFIG and header["step"] == info["step"] == 4
    expected = flatten(state.averaged_params)
    for name, leaf in flatten(loaded).items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, expected[name], rtol=tolerance, atol=tolerance * 1e-2)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.safetensors"]


def test_equal_parameters_give_equal_files(tmp_path):
    for name in ("a", "b"):
        save_params(tmp_path / name, params(), {"config": CONFIG, "step": 1, "stage": "only"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_record_names_what_was_read_by_its_hash(workdir, tmp_path):
    folder, _ = workdir
    run = identify(folder)
    assert run == identify(folder / "only") and (run["path"], run["step"]) == (str(folder / "only"), 4)
    shutil.copytree(folder, tmp_path / "copy")
    assert identify(tmp_path / "copy")["sha256"] == run["sha256"]
    stored = (tmp_path / "copy" / "only" / "checkpoints" / "4" / "params").rglob("*")
    largest = max((path for path in stored if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert identify(tmp_path / "copy")["sha256"] != run["sha256"]

    file = tmp_path / "params.safetensors"
    save_params(file, params(), {})
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert identify(file) == identify(tmp_path) == {"path": str(file), "sha256": expected}
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        identify(tmp_path / "no.safetensors")


def test_only_named_subnets_are_exported(workdir, tmp_path):
    export(workdir[0], tmp_path / "x.safetensors", subnets=["denoiser"])
    assert set(load_params(tmp_path / "x.safetensors")[0]) == {"denoiser"}
    with pytest.raises(ConfigError, match="did you mean 'denoiser'"):
        export(workdir[0], tmp_path / "y.safetensors", subnets=["denoisr"])


def test_values_that_float16_cannot_hold_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        save_params(tmp_path / "x", params(), {}, dtype="flot16")
    with pytest.raises(CheckpointError, match="not finite in float16: a/x"):
        save_params(tmp_path / "x", {"a": {"x": np.array([1e6], np.float32)}}, {}, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_a_missing_damaged_or_foreign_file_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_params(tmp_path / "no.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_params(tmp_path)
    path = tmp_path / "x.safetensors"
    save_params(path, params(), {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_params(path)
    path.write_bytes(b"no tensors at all")
    with pytest.raises(CheckpointError, match="damaged"):
        load_params(path)
    save_file({"a": np.ones(1, np.float32)}, path, metadata={HEADER: "{}"})
    with pytest.raises(CheckpointError, match="not in the format"):
        load_params(path)


def test_init_from_replaces_named_subnets_only(tmp_path):
    path = tmp_path / "x.safetensors"
    fresh, stored = params(), jax.tree.map(lambda leaf: leaf + 1, params())
    save_params(path, stored, {})
    result = initialise(fresh, {"encoder": str(path)})
    assert_equal(result["encoder"], stored["encoder"])
    assert_equal(result["denoiser"], fresh["denoiser"])
    everything = initialise(fresh, {"*": "{workdir}/x.safetensors"}, root=tmp_path)
    assert_equal(everything, stored)
    beside = initialise(fresh, {"*": "{workdir}/x.safetensors"}, root=tmp_path / "stage2")
    assert_equal(beside, stored)


def test_sources_are_checked_against_shapes_before_anything_is_computed(tmp_path):
    shapes = jax.eval_shape(params)
    with pytest.raises(
        CheckpointError, match=r"entry '\*': there is no checkpoint .*, or train the stage before first"
    ):
        read_sources(shapes, {"*": "{workdir}/stage1"}, root=tmp_path)
    save_params(tmp_path / "stage1", params(), {})
    assert_equal(read_sources(shapes, {"*": "{workdir}/stage1"}, root=tmp_path), params())


def test_init_from_reads_the_workdir_of_an_earlier_stage(workdir, tmp_path):
    folder, state = workdir
    task = ToyTask(toy_stage(init_from={"*": "{workdir}/only"}, trainable=("denoiser/motion",)))
    with jax.set_mesh(one_device()):
        start = initial_state(task, "only", 1, one_device(), folder)
    assert_equal(start.params, state.averaged_params)


def test_missing_and_unknown_keys_are_listed_at_most_ten(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = params()
    del stored["denoiser"]["motion"]
    stored["denoiser"].update({f"extra_{n:02}": {"scale": jnp.ones(2)} for n in range(15)})
    save_params(path, stored, {})
    with pytest.raises(CheckpointError) as error:
        initialise(params(), {"denoiser": str(path)})
    message = str(error.value)
    assert "1 missing (denoiser/motion/scale)" in message and "15 unknown" in message
    assert message.count("extra_") == 10 and "and 5 more" in message


def test_declared_leaves_may_be_missing_and_keep_their_fresh_values(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = jax.tree.map(lambda leaf: leaf + 1, params())
    del stored["denoiser"]["motion"]
    save_params(path, stored, {})
    result = initialise(params(), {"denoiser": str(path)}, (".*/motion/",))
    assert_equal(result["denoiser"]["motion"], params()["denoiser"]["motion"])
    assert_equal(result["denoiser"]["dense"], stored["denoiser"]["dense"])


def test_other_shapes_are_named_with_both(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = params()
    stored["encoder"]["dense"]["kernel"] = jnp.ones((3, 4))
    save_params(path, stored, {})
    with pytest.raises(ShapeError, match=r"encoder/dense/kernel: stored \(3, 4\), model \(8, 16\)"):
        initialise(params(), {"encoder": str(path)})


def test_declared_kernels_get_the_models_input_channels(tmp_path):
    """Zero where there were none, so that the network starts as the one that was stored; the last ones go where there were more."""
    path = tmp_path / "x.safetensors"
    stored = params()
    narrow = np.asarray(stored["encoder"]["dense"]["kernel"])[:5]
    stored["encoder"]["dense"]["kernel"] = narrow
    save_params(path, stored, {})
    shapes = jax.eval_shape(params)
    fit = {"fit_inputs": ("encoder/dense/kernel",)}
    found = read_sources(shapes, {"encoder": str(path)}, **fit)["encoder"]["dense"]["kernel"]
    assert found.shape == (8, 16)
    np.testing.assert_array_equal(found[:5], narrow)
    assert not found[5:].any()
    more = np.concatenate([np.asarray(params()["encoder"]["dense"]["kernel"]), np.ones((2, 16), np.float32)])
    stored["encoder"]["dense"]["kernel"] = more
    save_params(tmp_path / "more.safetensors", stored, {})
    sources = {"encoder": str(tmp_path / "more.safetensors")}
    found = read_sources(shapes, sources, **fit)["encoder"]["dense"]["kernel"]
    np.testing.assert_array_equal(found, more[:8])
    with pytest.raises(ShapeError, match=r"stored \(5, 16\), model \(8, 16\)"):
        read_sources(shapes, {"encoder": str(path)})
    stored["encoder"]["dense"]["kernel"] = narrow[:, :3]
    save_params(path, stored, {})
    with pytest.raises(ShapeError, match=r"stored \(5, 3\), model \(8, 16\)"):
        read_sources(shapes, {"encoder": str(path)}, fit_inputs=("encoder/.*",))


def test_leaves_may_have_another_name_in_a_source(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = params()
    stored["encoder"]["old"] = stored["encoder"].pop("dense")
    save_params(path, stored, {})
    shapes = jax.eval_shape(params)
    found = read_sources(shapes, {"encoder": str(path)}, rename={"/old/": "/dense/"})
    assert_equal(found, {"encoder": params()["encoder"]})
    with pytest.raises(CheckpointError, match="encoder/old"):
        read_sources(shapes, {"encoder": str(path)})


def test_a_convolution_of_one_pixel_becomes_a_linear_layer(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    save_params(tmp_path / "x.safetensors", {"net": {"proj": {"kernel": kernel}, "other": {"kernel": kernel}}}, {})
    expected = {"net": {"proj": {"kernel": np.zeros((2, 3))}, "other": {"kernel": np.zeros((1, 1, 2, 3))}}}
    found = read_sources(expected, {"net": str(tmp_path / "x.safetensors")})
    np.testing.assert_array_equal(found["net"]["proj"]["kernel"], kernel[0, 0])
    np.testing.assert_array_equal(found["net"]["other"]["kernel"], kernel)


def test_declared_leaves_of_a_source_may_stay_unused(tmp_path):
    path = tmp_path / "x.safetensors"
    stored = {"encoder": {**params()["encoder"], "head": {"kernel": jnp.ones((2, 2))}}}
    save_params(path, stored, {})
    shapes = jax.eval_shape(params)
    assert_equal(
        read_sources(shapes, {"encoder": str(path)}, allow_unused=(".*/head/",)), {"encoder": params()["encoder"]}
    )
    with pytest.raises(CheckpointError, match=r"1 unknown \(encoder/head/kernel\)"):
        read_sources(shapes, {"encoder": str(path)}, allow_unused=("head/",))


def test_an_unknown_subnet_names_the_nearest(tmp_path):
    path = tmp_path / "x.safetensors"
    save_params(path, {"denoiser": params()["denoiser"]}, {})
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        initialise(params(), {"encodr": str(path)})
    with pytest.raises(CheckpointError, match="has no sub-network 'encoder'"):
        initialise(params(), {"encoder": str(path)})


def test_a_damaged_checkpoint_says_which_folder_to_remove(tmp_path):
    def run():
        task, options = ToyTask(toy_stage(steps=2)), LoopOptions(checkpoint_every=2)
        train(task, "only", ToyLoader(), tmp_path, options=options, mesh=one_device(), quiet=True)

    run()
    for file in (tmp_path / "checkpoints" / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoints/2 is damaged .*remove that folder"):
        run()
    with pytest.raises(CheckpointError, match="is damaged"):
        load_params(tmp_path)


def test_what_a_stage_begins_anew_comes_from_its_own_source(tmp_path):
    first, pretrained = tmp_path / "first.safetensors", tmp_path / "pretrained.safetensors"
    moved = jax.tree.map(lambda leaf: leaf + 1, params())
    save_params(first, moved, {})
    save_params(pretrained, params(), {})
    shapes = jax.eval_shape(params)
    found = read_sources(
        shapes, {"*": str(first)}, restore=("denoiser/motion/",), restore_from="{workdir}/pretrained.safetensors", root=tmp_path
    )  # fmt: skip
    assert_equal(found["denoiser"]["motion"], params()["denoiser"]["motion"])
    assert_equal(found["denoiser"]["dense"], moved["denoiser"]["dense"])
    assert_equal(found["encoder"], moved["encoder"])
    with pytest.raises(ConfigError, match="pattern 'denoiser/motoin/', matches no parameter"):
        read_sources(shapes, {}, restore=("denoiser/motoin/",), restore_from=str(first))
    with pytest.raises(CheckpointError, match="entry 'restore': there is no checkpoint"):
        read_sources(shapes, {}, restore=("denoiser/",), restore_from=str(tmp_path / "nothing"))
    save_params(pretrained, {"encoder": params()["encoder"]}, {})
    with pytest.raises(CheckpointError, match="missing .denoiser/motion/scale"):
        read_sources(shapes, {}, restore=("denoiser/motion/",), restore_from=str(pretrained))


def test_a_subnet_that_is_a_system_of_its_own_takes_the_sub_networks_of_its_source(tmp_path):
    own, other = (
        {"net": {"w": np.ones(2, np.float32)}},
        {"a": {"w": np.full(3, 2.0, np.float32)}, "b": {"w": np.zeros(1)}},
    )
    save_params(tmp_path / "other.safetensors", {**other, "more": {"w": np.zeros(1, np.float32)}}, {})
    fresh = {**own, "teacher": {name: {"w": jnp.ones_like(leaf["w"])} for name, leaf in other.items()}}
    made = initialise(fresh, {"teacher": str(tmp_path / "other.safetensors")})
    assert_equal(made, {**own, "teacher": other})
    with pytest.raises(CheckpointError, match="no sub-network 'net'"):
        initialise(fresh, {"net": str(tmp_path / "other.safetensors")})
