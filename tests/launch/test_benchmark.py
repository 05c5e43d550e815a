"""The benchmark times what it says it times, alone or beside torch, and runs on a machine that has almost nothing installed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from launch.benchmarks import command, report, sides, suite, uses
from launch.benchmarks.backbones import DENOISERS
from launch.benchmarks.flops import flops
from launch.benchmarks.networks import NETWORKS
from launch.benchmarks.timing import interleaved, summary
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.nn.attention import attention
from portrait_jax.nn.convolve import convolve
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.target import compiling_for

SIDE_KEYS = {
    "median_s",
    "low_s",
    "high_s",
    "best_s",
    "samples_s",
    "processor_s",
    "gflop_per_s",
    "first_run_s",
    "parameters",
    "outputs",
}
JAX_KEYS = SIDE_KEYS | {"trace_s", "compile_s", "traces", "flops", "xla_flops", "bytes"}

PUBLISHED = {
    "unet": 859_520_964,
    "motion_unet": 859_520_964 + 453_209_280,
    "motion_unet_v3": 859_520_964 + 417_137_600,
    "controlnet": 361_279_120,
    "t2i_adapter": 77_369_280,
    "ip_adapter": 29_918_208,
    "ip_adapter_plain": 3_150_336,
    "ip_adapter_faceid": 3_675_648,
    "ip_adapter_unet": 859_520_964 + 19_169_280,
    "vae_encode": 34_163_664,
    "vae_decode": 49_490_199,
    "clip_text": 123_060_480,
    "clip_vision": 303_966_208,
    "clip_vision_h": 632_076_800,
    "wav2vec2": 94_370_816,
    "arcface_50": 43_628_992,
    "arcface": 65_225_792,
}
"""Elements of the published files, less what inference does not read: a CTC head, factors of weight norm, counters."""


def run(root, *arguments):
    command = [sys.executable, "-m", "launch.benchmark", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    """One run of the command line on two small networks without torch."""
    output = tmp_path_factory.mktemp("benchmark") / "new" / "results.json"
    arguments = ["--only", "taesd_decode", "ip_adapter", "--size=small", "--repeats=3", "--torch=never"]
    done = run(root, *arguments, "--output", output)
    assert done.returncode == 0, done.stderr
    return done, json.loads(output.read_text()), output


def test_results_say_machine_versions_shapes_and_all_timings(written):
    _, made, output = written
    assert made["schema"] == 1 and made["suite"] == "networks" and made["date"]
    assert made["versions"]["jax"] == jax.__version__
    assert made["machine"]["platform"] == "cpu" and made["machine"]["cores"] >= 1
    assert [row["name"] for row in made["networks"]] == ["ip_adapter", "taesd_decode"]
    for row in made["networks"]:
        side = row["sides"]["jax"]
        assert set(side) == JAX_KEYS and len(side["samples_s"]) == 3
        assert side["low_s"] <= side["median_s"] <= side["high_s"] and side["best_s"] > 0
        assert side["gflop_per_s"] == pytest.approx(side["flops"] / side["median_s"] / 1e9)
    assert made["networks"][1]["inputs"] == {"x": [1, 8, 8, 4]}
    assert [path.name for path in output.parent.iterdir()] == ["results.json"]


def test_without_torch_there_are_times_but_no_ratios(written):
    done, made, _ = written
    for row in made["networks"]:
        assert row["ratios"] == {} and set(row["sides"]) == {"jax"} and row["skipped"] == {"torch": "not asked for"}
    assert "taesd_decode" in done.stdout and "no torch (not asked for)" in done.stdout


def test_torch_that_is_not_installed_is_named_as_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert sides.torch_absence("cpu") == "torch is not installed"


def test_a_network_is_traced_once_and_compiled_apart_from_its_runs():
    rows = suite.run_suite(
        suite.SUITES["networks"],
        ["taesd_decode"],
        size="small",
        dtype="bfloat16",
        repeats=2,
        torch=False,
        say=lambda text: None,
    )
    side = rows[0]["sides"]["jax"]
    assert side["traces"] == 1
    assert side["compile_s"] > 0 and side["trace_s"] > 0
    assert max(side["samples_s"]) < side["compile_s"] + side["trace_s"]
    assert rows[0]["dtype"] == "bfloat16"


def test_a_network_that_does_not_fit_leaves_the_others_their_times(monkeypatch):
    real = suite.jax_side

    def full(network, *args):
        if network is NETWORKS["clip_text"]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return real(network, *args)

    monkeypatch.setattr(suite, "jax_side", full)
    rows = suite.run_suite(
        suite.SUITES["networks"],
        ["clip_text", "ip_adapter"],
        size="small",
        dtype="float32",
        repeats=1,
        torch=False,
        say=print,
    )
    assert rows[0]["error"] == "it does not fit in memory" and rows[1]["sides"]["jax"]["median_s"] > 0
    assert "it does not fit in memory" in report.table(rows)


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_is_the_published_one(name):
    made = NETWORKS[name].shapes("full", jnp.float32)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == PUBLISHED[name]


def test_small_networks_take_the_inputs_of_the_full_ones():
    for network in NETWORKS.values():
        full, small = network.full.inputs, network.small.inputs
        assert list(full) == list(small)
        assert [(len(full[key].shape), full[key].torch) for key in full] == [
            (len(small[key].shape), small[key].torch) for key in full
        ]


def test_wrong_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no suite 'netwroks'; did you mean 'networks'"):
        command.chosen("netwroks", [])
    with pytest.raises(ConfigError, match="no network 'vae_encod'; did you mean 'vae_encode'"):
        command.chosen("networks", ["vae_encod"])
    assert command.chosen("networks", ["clip_text", "unet"]) == ("networks", ["unet", "clip_text"])


def test_mistakes_end_with_a_message_and_status_2(root, tmp_path):
    done = run(root, "--suite=netwroks")
    assert done.returncode == 2 and "did you mean 'networks'" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(InputFileError, match="cannot write the results"):
        command.checked_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match="cannot write the results"):
        command.checked_output(tmp_path / "file" / "results.json")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--only a b --size small", ["--only=a,b", "--size", "small"]),
        ("--only=a b", ["--only=a,b"]),
        ("--only a,b", ["--only=a,b"]),
        ("--size small", ["--size", "small"]),
    ],
)
def test_several_names_may_follow_one_flag(line, words):
    assert command.joined(["prog", *line.split()]) == ["prog", *words]


BARE = """
import sys
import jax, flax.linen, optax, einops, numpy
allowed = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names) | {"launch", "portrait_jax"}
class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Closed())
for name in ("ml_collections", "jaxtyping", "grain", "av", "mediapipe", "tensorflow_datasets", "cv2", "PIL", "safetensors"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is not blocked")
from launch import benchmark, cli
sys.exit(cli.status(benchmark.main, ["benchmark", *sys.argv[1:], "--size=small", "--repeats=1"]))
"""


@pytest.mark.parametrize(("kind", "name"), [("networks", "taesd_decode"), ("sampling", "cogvideox")])
def test_a_machine_with_jax_flax_optax_einops_and_numpy_alone_is_enough(root, kind, name):
    words = [sys.executable, "-c", BARE, f"--suite={kind}", f"--only={name}"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout and "no torch (torch is not installed)" in done.stdout


def test_a_step_of_training_moves_all_parameters_and_counts_three_forwards():
    """Step by step from where the one before left them."""
    network = DENOISERS["cogvideox"]
    params = network.variables("small", jnp.float32)
    inputs = {name: jnp.asarray(entry.draw()) for name, entry in network.small.inputs.items()}

    def forward(params, inputs):
        return network.call(partial(network.module("small", jnp.float32).apply, params), **inputs)

    before, state = jax.tree.map(jnp.copy, params), uses.TRAINING.state(params)
    program, operations = uses.traced(uses.TRAINING, forward, state, inputs)
    assert operations == 3 * flops(jax.make_jaxpr(forward)(params, inputs))
    compiled = program.lower().compile()
    losses = []
    for _ in range(3):
        state, loss = compiled(state, inputs)
        losses.append(float(loss))
    assert losses[2] < losses[1] < losses[0]
    moved = jax.tree.map(lambda old, new: bool((old != new).any()), before["params"], state[0]["params"])
    still = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(moved) if not leaf]
    # A key's bias adds the same to all scores of a query.
    assert all("to_k" in path or "norm_k" in path for path in still), still


def test_a_sampling_runs_both_branches_of_every_step(monkeypatch):
    network, seen = DENOISERS["cogvideox"], []

    def forward(params, inputs):
        jax.debug.callback(lambda time: seen.append(time.tolist()), inputs["timestep"])
        return 0.1 * inputs["x"]

    inputs = {name: jnp.asarray(entry.draw()) for name, entry in network.small.inputs.items()}
    result = jax.jit(uses.SAMPLING.program(forward))({}, inputs)
    jax.effects_barrier()
    assert len(seen) == uses.STEPS and all(len(times) == 2 and times[0] == times[1] for times in seen)
    assert seen == sorted(seen, reverse=True) and len({times[0] for times in seen}) == uses.STEPS
    assert result.shape == inputs["x"].shape and bool(jnp.isfinite(result).all())


def test_utilisation_is_a_share_of_the_devices_best_product(monkeypatch):
    monkeypatch.setattr(suite, "peak", lambda dtype: 4e9)
    rows = suite.run_suite(
        suite.SUITES["sampling"],
        ["cogvideox"],
        size="small",
        dtype="float32",
        repeats=1,
        torch=False,
        say=lambda text: None,
    )
    side = rows[0]["sides"]["jax"]
    assert rows[0]["utilisation"]["jax"] == pytest.approx(side["gflop_per_s"] / 4)
    assert f"{100 * side['gflop_per_s'] / 4:.0f} %" in report.table(rows) and "MFU" in report.table(rows)
    assert uses.peak("float32") > 1e8


def test_denoisers_are_published_ones_but_for_the_depth_of_the_largest():
    for name, count in {
        **{name: PUBLISHED[name] for name in ("unet", "motion_unet")},
        "svd_unet": 1_524_623_082,
    }.items():
        made = DENOISERS[name].shapes("full", jnp.float32)
        assert sum(leaf.size for leaf in jax.tree.leaves(made)) == count


def test_operations_count_loops_as_often_as_they_run():
    x, kernel = jnp.ones((4, 5)), jnp.ones((3, 3, 2, 7))

    def looped(x):
        def body(carry, _):
            return jnp.sin(jax.checkpoint(lambda y: y @ jnp.ones((5, 5)))(carry)), None

        return jax.lax.scan(body, x, None, length=6)[0]

    assert flops(jax.make_jaxpr(looped)(x)) == 6 * 2 * 4 * 5 * 5
    convolve = jax.make_jaxpr(
        lambda image: jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    assert flops(convolve(jnp.ones((1, 8, 8, 2)))) == 2 * 8 * 8 * 7 * 9 * 2
    branches = jax.make_jaxpr(
        lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ x.T, lambda x: x[:, :1] @ x[:, :1].T, x)
    )
    assert flops(branches(x)) == 2 * 4 * 4 * 5


@pytest.mark.parametrize("name", ["xla", "winograd", "gathered"])
def test_a_convolution_counts_the_same_whatever_short_cut_it_takes(name):
    traced = jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, implementation=name))
    assert flops(traced(jnp.ones((2, 5, 6, 3)), jnp.ones((3, 3, 3, 4)))) == 2 * (2 * 5 * 6) * 9 * 3 * 4


def test_flops_of_the_tpu_kernel_are_those_of_its_blocks_on_all_devices():
    """Forward two products, backward five and two of them again: the scores and what comes to them, once for each kernel."""
    given = [jax.ShapeDtypeStruct((2, n, 4, 8), jnp.bfloat16) for n in (1024, 2048, 2048)]
    gradient = jax.grad(lambda *x: jnp.sum(attention(*x).astype(jnp.float32)), (0, 1, 2))
    with compiling_for("tpu"), jax.set_mesh(make_mesh(data=2, tensor=4)):
        counts = [flops(jax.jit(f).trace(*given).jaxpr) for f in (attention, gradient)]
    product, row_sums = 2 * 2 * 4 * 1024 * 2048 * 8, 2 * 2 * 4 * 1024 * 8
    assert counts == [2 * product, (2 + 5 + 2) * product + row_sums]


def test_flops_of_tokens_apart_are_those_of_one_device():
    q = jax.ShapeDtypeStruct((2, 4096, 4, 8), jnp.float32)
    with jax.set_mesh(make_mesh(data=2, sequence=4)):
        apart = flops(jax.jit(attention).trace(q, q, q).jaxpr)
    assert apart == flops(jax.jit(attention).trace(q, q, q).jaxpr) == 2 * 2 * 2 * 4 * 4096 * 4096 * 8


def test_samples_are_taken_in_turns():
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.002))}
    samples = interleaved(runs, 2, shortest=1e-9)
    assert "".join(order) == "ab" + "ab" + "ba"
    assert len(samples["a"]) == len(samples["b"]) == 2
    waited = summary(samples["b"])
    assert waited["median_s"] >= 0.002 > summary(samples["a"])["median_s"]
    assert waited["processor_s"] < waited["median_s"]
    assert summary([(3.0, 1.0), (1.0, 5.0), (2.0, 2.0)]) == {
        "median_s": 2.0, "low_s": 1.5, "high_s": 2.5, "best_s": 1.0, "processor_s": 2.0, "samples_s": [3.0, 1.0, 2.0],
    }  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "name"), [("networks", name) for name in NETWORKS] + [("training", name) for name in DENOISERS]
)
def test_both_sides_take_and_give_the_same_shapes(kind, name):
    """Equal numbers of outputs; the originals get every input of ours, permuted."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    network = suite.SUITES[kind].networks[name]
    mine = sides.jax_side(network, "small", "float32")
    made, failed = sides.torch_sides(name, network, "small", "float32", "cpu")
    assert failed == {}
    original = made["torch"]
    assert original.facts["outputs"] == mine.facts["outputs"]
    ratio = original.facts["parameters"] / mine.facts["parameters"]
    # The originals hold both halves of an autoencoder, and statistics of batch norms as buffers.
    low, high = {"vae": (1, 4), "taesd": (1, 4), "arcface": (0.8, 1)}.get(name.split("_")[0], (0.99, 1.1))
    assert low <= ratio <= high
