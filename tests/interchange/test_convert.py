"""Import and export of whole releases, and every way in which a file can be the wrong one."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import CheckpointError, ConfigError, ShapeError
from portrait_jax.interchange import export_checkpoint, import_checkpoint, import_tree, layout_named
from portrait_jax.interchange.convert import KEPT
from portrait_jax.interchange.layouts import layouts
from portrait_jax.interchange.safetensors_files import SafetensorsFile
from portrait_jax.training.params import FILE, initialise, load_params, save_params
from tests.interchange.made import SMALL, place, random_tensors, read_all, release, same_tensors, save, shrunk, targets


@pytest.mark.parametrize("name", sorted(layouts()))
def test_exporting_an_import_gives_identical_tensors_under_identical_names(name, tmp_path):
    layout = layout_named(name)
    files = release(layout, tmp_path / "published")
    inputs = [str(place(tmp_path / "published", file)) for file in files]
    import_checkpoint([name], inputs, tmp_path / "ours", targets=targets(layout))
    output = tmp_path / "back"
    done = export_checkpoint([name], tmp_path / "ours", output if len(files) > 1 else output / "one.safetensors")
    for (_, tensors), path in zip(files.items(), done.files, strict=True):
        same_tensors(read_all(path), tensors)


def test_half_precision_stays_as_it_is_unless_another_is_asked_for(small, tmp_path):
    path, tensors, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    kept = SafetensorsFile(tmp_path / "ours" / FILE)
    assert {str(spec.dtype) for spec in kept.specs.values()} == {"float32", "float16", "bfloat16"}
    import_checkpoint([SMALL], [str(path)], tmp_path / "wide", dtype="float32", targets=trees)
    wide = SafetensorsFile(tmp_path / "wide" / FILE)
    assert {str(spec.dtype) for spec in wide.specs.values()} == {"float32"}
    export_checkpoint([SMALL], tmp_path / "wide", tmp_path / "half.safetensors", dtype="float16")
    half = read_all(tmp_path / "half.safetensors")
    assert all((half[name] == tensor.astype(np.float16)).all() for name, tensor in tensors.items())


def test_a_value_that_float16_cannot_hold_is_named_and_nothing_is_left(small, tmp_path):
    path, tensors, trees = small
    save(path, {**tensors, "quant_conv.bias": np.full_like(tensors["quant_conv.bias"], 1e6, dtype=np.float32)})
    with pytest.raises(CheckpointError, match="quant_conv/bias.*float16 cannot hold"):
        import_checkpoint([SMALL], [str(path)], tmp_path / "ours", dtype="float16", targets=trees)
    assert list((tmp_path / "ours").iterdir()) == []


def test_what_is_kept_beside_the_parameters_is_not_left_without_them(tmp_path):
    name = "wav2vec2_base_960h"
    layout = layout_named(name)
    (tensors,) = release(layout, tmp_path / "published").values()
    large = next(tensor for tensor in tensors if tensor.endswith("k_proj.weight"))
    path = tmp_path / "model.safetensors"
    save(path, {**tensors, large: np.full(tensors[large].shape, 1e6, np.float32)})
    import_checkpoint([name], [str(path)], tmp_path / "ours", targets=targets(layout))
    assert (tmp_path / "ours" / KEPT).exists(), "this layout keeps nothing beside"
    with pytest.raises(CheckpointError, match="float16 cannot hold"):
        import_checkpoint([name], [str(path)], tmp_path / "half", dtype="float16", targets=targets(layout))
    assert list((tmp_path / "half").iterdir()) == []


def test_a_whole_file_is_not_hidden_by_the_index_of_earlier_shards(small, tmp_path):
    path, tensors, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    output = tmp_path / "out.safetensors"
    assert len(export_checkpoint([SMALL], tmp_path / "ours", output, shard_bytes=20_000).files) > 2
    export_checkpoint([SMALL], tmp_path / "ours", output)
    assert not list(tmp_path.glob("*.index.json"))
    same_tensors(read_all(output), tensors)


def test_an_import_starts_a_training_stage(small, tmp_path):
    path, tensors, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    _, info = load_params(tmp_path / "ours")
    assert info["layout"] == [SMALL] and info["sources"] == ["vae.safetensors"]
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), trees)
    started = initialise(fresh, {"autoencoder": "{workdir}/ours"}, root=tmp_path)
    kernel = started["autoencoder"]["encoder"]["conv_in"]["kernel"]
    expected = tensors["encoder.conv_in.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_parameters_trained_here_are_exported_under_published_names(small, tmp_path):
    _, tensors, trees = small
    (part,) = layout_named(SMALL).parts
    wide = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    params = import_tree(part, wide, trees["autoencoder"])
    save_params(
        tmp_path / "trained.safetensors", {"autoencoder": params, "denoiser": {"x": np.ones(2)}}, {"stage": "s"}
    )
    export_checkpoint([SMALL], tmp_path / "trained.safetensors", tmp_path / "out.safetensors")
    same_tensors(read_all(tmp_path / "out.safetensors"), wide)


def test_a_release_in_a_folder_is_read_and_written_file_by_file(tmp_path):
    layout = layout_named("sd15")
    for part in layout.parts:
        tensors = random_tensors(part.stored(shrunk(part)))
        save(tmp_path / "model" / part.file / "diffusion_pytorch_model.safetensors", tensors)
    done = import_checkpoint(["sd15"], [str(tmp_path / "model")], tmp_path / "ours", targets=targets(layout))
    assert set(done.subnets) == {part.subnet for part in layout.parts}
    written = export_checkpoint(["sd15"], tmp_path / "ours", tmp_path / "back")
    assert tmp_path / "back" / "unet" / "diffusion_pytorch_model.safetensors" in written.files


def test_a_unet_and_motion_modules_become_one_sub_network(tmp_path):
    names = ["sd15_unet", "animatediff_v2"]
    files, trees = [], {}
    for name in names:
        (part,) = layout_named(name).parts
        trees[name] = {part.subnet: shrunk(part)}
        files.append(str(save(tmp_path / f"{name}.safetensors", random_tensors(part.stored(shrunk(part))))))
    merged = {"denoiser": _merged(trees["sd15_unet"]["denoiser"], trees["animatediff_v2"]["denoiser"])}
    done = import_checkpoint(names, files, tmp_path / "ours", targets=merged)
    assert done.subnets == {"denoiser": 686 + 546}
    export_checkpoint(["animatediff_v2"], tmp_path / "ours", tmp_path / "motion.safetensors")
    same_tensors(read_all(tmp_path / "motion.safetensors"), read_all(tmp_path / "animatediff_v2.safetensors"))


def _merged(one, other):
    both = {**one, **other}
    return {k: _merged(one[k], other[k]) if k in one and k in other else v for k, v in both.items()}


def test_a_sub_network_can_have_another_name(small, tmp_path):
    path, _, trees = small
    done = import_checkpoint(
        [SMALL], [str(path)], tmp_path / "ours", subnet="mine", targets={"mine": trees["autoencoder"]}
    )
    assert done.subnets == {"mine": 248}
    with pytest.raises(CheckpointError, match=r"none of the sub-networks autoencoder \(it has: mine\)"):
        export_checkpoint([SMALL], tmp_path / "ours", tmp_path / "x.safetensors")
    export_checkpoint([SMALL], tmp_path / "ours", tmp_path / "x.safetensors", subnet="mine")
    assert (tmp_path / "x.safetensors").is_file()


def test_old_attention_names_and_linear_or_convolution_are_all_read(small, tmp_path):
    _path, tensors, trees = small
    (part,) = layout_named(SMALL).parts
    old = {}
    for name, tensor in tensors.items():
        for new, other in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f"attentions.0.{new}." in name:
                name = name.replace(f".{new}.", f".{other}.")
                tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor
        old[name] = tensor
    assert old.keys() != tensors.keys()
    first, second = (import_tree(part, x, trees["autoencoder"]) for x in (tensors, old))
    attention = ("decoder", "mid_block", "attentions_0", "to_out_0", "kernel")
    for step in attention:
        first, second = first[step], second[step]
    np.testing.assert_array_equal(first, second)


def test_a_personalised_file_may_lack_a_network_and_hold_anything_besides(tmp_path):
    layout = layout_named("sd15_single_file")
    (tensors,) = release(layout, tmp_path).values()
    unet = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    extras = {"model_ema.decay": np.ones(1, np.float32), "betas": np.ones(4, np.float32), "note": np.zeros(2, np.int64)}
    save(tmp_path / "mine.safetensors", {**unet, **extras})
    done = import_checkpoint(
        ["sd15_single_file"], [str(tmp_path / "mine.safetensors")], tmp_path / "ours", targets=targets(layout)
    )
    assert done.subnets == {"denoiser": 686}
    assert any("passed over 1 unknown tensor (note)" in note for note in done.notes)
    assert any("not given: autoencoder" in note for note in done.notes)


def test_unneeded_tensors_are_made_anew_for_what_was_trained_here(tmp_path):
    layout = layout_named("follow_your_emoji")
    part, tree = layout.parts[0], shrunk(layout.parts[0])
    save_params(
        tmp_path / "trained.safetensors", {part.subnet: import_tree(part, random_tensors(part.stored(tree)), tree)}, {}
    )
    export_checkpoint([layout.name], tmp_path / "trained.safetensors", tmp_path / "unet.safetensors")
    again = read_all(tmp_path / "unet.safetensors")
    assert again.keys() == part.stored(tree).keys()
    table = next(again[name] for name in again if name.endswith("pos_encoder.pe"))
    assert table.shape == (1, 32, 4)
    np.testing.assert_allclose(table[0, 1], [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)], rtol=1e-6)


def test_the_strict_loader_of_hunyuan_portrait_finds_all_names_in_what_was_trained_here(tmp_path):
    """A token that nothing reads, and counters of batches, beside the image encoder with its adapters."""
    part = next(part for part in layout_named("hunyuan_portrait").parts if part.subnet == "image_encoder")
    tree = shrunk(part)
    read = part.expected(tree)
    trained = {part.subnet: import_tree(part, random_tensors(read), tree)}
    save_params(tmp_path / "trained.safetensors", trained, {})
    export_checkpoint(["hunyuan_portrait"], tmp_path / "trained.safetensors", tmp_path / "dino.safetensors")
    again = read_all(tmp_path / "dino.safetensors")
    made = {name: tensor for name, tensor in again.items() if name not in read}
    counters = {name.replace("running_var", "num_batches_tracked") for name in again if "running_var" in name}
    assert made.keys() == {"mask_token", *counters} and len(counters) == 30
    assert made["mask_token"].shape == again["cls_token"].shape[1:]
    assert {(made[name].dtype, made[name].shape) for name in counters} == {(np.dtype(np.int64), ())}


def wrong(change):
    """A file with something wrong, what the message says, and its type."""

    def case(tensors):
        changed = dict(tensors)
        change(changed)
        return changed

    return case


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda t: [t.pop(n) for n in list(t) if "norm1" in n],
            CheckpointError,
            r"lacks 48 .*and 38 more\); it is incomplete",
        ),
        (
            lambda t: t.update(unheard=np.ones(2, np.float32)),
            CheckpointError,
            r"1 tensor that autoencoder does not have \(unheard\)",
        ),
        (
            lambda t: t.update({"quant_conv.bias": np.ones(9, np.float32)}),
            ShapeError,
            r"file \(9,\), network \(4,\).*--config",
        ),
        (
            lambda t: t.update({"quant_conv.bias": np.ones(4, np.int8)}),
            CheckpointError,
            r"wrong dtype in 1 .*int8.*quantised",
        ),
        (lambda t: t.update({"quant_conv.bias": np.ones(4)}), CheckpointError, "wrong dtype in 1 .*float64"),
        (
            lambda t: t.update({"encoder.mid_block.attentions.0.query.weight": np.ones((4, 4), np.float32)}),
            CheckpointError,
            "holds 'encoder.mid_block.attentions.0.to_q.weight' twice",
        ),
    ],
)
def test_a_file_that_does_not_fit_says_how_and_leaves_nothing(small, tmp_path, change, error, message):
    path, tensors, trees = small
    save(path, wrong(change)(tensors))
    with pytest.raises(error, match=message):
        import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    assert not (tmp_path / "ours").exists()


def test_extra_tensors_are_passed_over_on_request(small, tmp_path):
    path, tensors, trees = small
    save(path, {**tensors, "unheard": np.ones(2, np.float32)})
    done = import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees, ignore_extra=True)
    assert "unheard" in done.notes[0]


def test_a_wrong_layout_is_answered_with_the_right_one(small, tmp_path):
    path, *_ = small
    with pytest.raises(CheckpointError, match="is no clip_vision_vit_l: it looks like sd15_vae .*--layout sd15_vae"):
        import_checkpoint(["clip_vision_vit_l"], [str(path)], tmp_path / "ours")
    with pytest.raises(ConfigError, match="did you mean 'sd15_vae'"):
        import_checkpoint(["sd15_vea"], [str(path)], tmp_path / "ours")


def test_the_same_network_twice_is_refused(small, tmp_path):
    path, _, trees = small
    with pytest.raises(CheckpointError, match="second file"):
        import_checkpoint([SMALL], [str(path), str(path)], tmp_path / "ours", targets=trees)


def test_exporting_what_is_no_parameter_file_says_so(small, tmp_path):
    path, *_ = small
    with pytest.raises(CheckpointError, match="no parameter file of this project"):
        export_checkpoint([SMALL], path, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export_checkpoint([SMALL], tmp_path, tmp_path / "x.safetensors")


def test_an_export_to_a_pickles_name_is_refused_and_many_files_want_a_folder(small, tmp_path):
    path, _, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    with pytest.raises(ConfigError, match=r"name it model\.safetensors"):
        export_checkpoint([SMALL], tmp_path / "ours", tmp_path / "model.ckpt")


def test_memory_holds_about_the_largest_tensor(tmp_path):
    """Reading and turning one tensor takes two; all of them would be fifty."""
    (part,) = layout_named(SMALL).parts
    tree = shrunk(part, side=128)
    published = random_tensors(part.stored(tree), dtypes=(np.dtype(np.float32),))
    path = save(tmp_path / "vae.safetensors", published)
    largest = max(tensor.nbytes for tensor in published.values())
    del published
    tracemalloc.start()
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets={part.subnet: tree})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * largest < path.stat().st_size / 4


def test_the_index_of_a_sharded_export_is_read_again(small, tmp_path):
    path, tensors, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    done = export_checkpoint([SMALL], tmp_path / "ours", tmp_path / "big.safetensors", shard_bytes=8000)
    index = json.loads(done.files[0].read_text())
    assert set(index["weight_map"]) == set(tensors) and len(done.files) > 2
    again = import_checkpoint([SMALL], [str(done.files[0])], tmp_path / "again", targets=trees)
    same_tensors(read_all(tmp_path / "ours" / FILE), read_all(again.files[0]))
