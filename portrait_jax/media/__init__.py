"""Files in and out: video, audio and images in one convention (RGB uint8, float32 samples), never half-written."""
