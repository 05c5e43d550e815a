"""Evaluation: image, temporal and landmark metrics, the probe that sees only results, and the suite of all."""
