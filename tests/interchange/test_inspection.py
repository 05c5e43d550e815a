"""What `inspect` tells of a file before it is imported."""

import numpy as np

from portrait_jax.interchange import import_checkpoint, inspect
from tests.interchange.made import SMALL, save


def test_inspect_counts_what_is_there_missing_and_extra(small, tmp_path):
    path, tensors, _trees = small
    tensors = {name: tensor for name, tensor in tensors.items() if "norm1" not in name}
    text = inspect(save(path, {**tensors, "unheard": np.ones(2, np.float32)}))
    assert "layout: sd15_vae" in text and "autoencoder: incomplete, 200 of 248 tensors" in text
    assert "48 missing: " in text and "… and 38 more" in text and "1 unknown: unheard" in text
    assert "not of the published size" in text
    assert "none of the known" in inspect(save(path, {"a.b": np.ones(2, np.float32)}))


def test_inspect_of_an_unrecognised_file_compares_it_with_the_closest_layout(small, tmp_path):
    path, tensors, _trees = small
    tensors = {name: tensor for name, tensor in tensors.items() if name != "quant_conv.weight"}
    text = inspect(save(path, {**tensors, "unheard": np.ones(2, np.float32)}))
    assert "none of the known ones" in text and "closest: sd15_vae" in text
    assert "1 missing: quant_conv.weight" in text and "1 unknown: unheard" in text


def test_inspect_knows_this_projects_own_files(small, tmp_path):
    path, _, trees = small
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    assert "sub-networks: autoencoder (248 leaves)" in inspect(tmp_path / "ours")
