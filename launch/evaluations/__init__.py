"""What `launch.evaluate` can do besides its own people: a benchmark from a manifest, and long videos by two strategies."""
