"""Faces as landmarks: detection, alignment, drawing, masks and crops.

Import from the modules: only `detector` needs MediaPipe, only `drawing` and `masks` need OpenCV.
"""
