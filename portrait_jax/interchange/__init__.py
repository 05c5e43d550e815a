"""PyTorch ⇄ Flax: key maps of published releases, their files, and where to find them. The one room that may load torch."""

from portrait_jax.interchange.convert import export_checkpoint, import_checkpoint, import_tree
from portrait_jax.interchange.hub import resolve
from portrait_jax.interchange.inspection import inspect
from portrait_jax.interchange.layouts import layout_named, layouts

__all__ = ["export_checkpoint", "import_checkpoint", "import_tree", "inspect", "layout_named", "layouts", "resolve"]
