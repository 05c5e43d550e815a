"""Animates three people that the embedded model has never seen, by a stored landmark sequence, and measures the result.

    make demo          (or: python -m launch.demo --output results)

Everything comes with the package: the model, the driving sequence with its sound, and the generator of the people, which
also knows what each of them would really look like in each frame. Writes one video per person and one contact sheet.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from configs import follow_your_emoji
from data import cases
from launch import cli
from portrait_jax import systems
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.media.image import write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.media.video import read_video
from portrait_jax.metrics import report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import BASELINES, Case, evaluate
from portrait_jax.progress import Bars
from portrait_jax.systems.loading import EMBEDDED, load_system_params
from portrait_jax.training.params import identify

OUTPUT = flags.DEFINE_string("output", "results/demo", "Folder for the videos and the contact sheet.")
SHEET_FRAMES = 7


def main() -> None:
    """Animates, measures, says where everything is."""
    cli.output_folder("output", OUTPUT.value)
    output = Path(OUTPUT.value)
    system = systems.build_system(follow_your_emoji.get_config("demo"))
    animator = Animator(system, load_system_params(system))
    people = cases.demo_cases(system.image_size)
    videos: dict[str, np.ndarray] = {}
    with Bars() as bars:
        for case in people:
            animate(case, animator, output, bars)
            videos[case.name] = read_video(output / f"{case.name}.mp4")
    table = evaluate(
        {"this model": lambda case: videos[case.name], **BASELINES}, {"cross identity": people}, Detector.load()
    )
    sheet_path = output / "contact_sheet.png"
    write_image(sheet_path, sheet(people, videos))
    console = Console()
    console.print(report.terminal(table, title=f"{len(people)} unseen people, driven by an unseen person"))
    console.print(f"videos:        {', '.join(str(output / f'{case.name}.mp4') for case in people)}", soft_wrap=True)
    console.print(f"contact sheet: {sheet_path}", soft_wrap=True)


def animate(case: Case, animator: Animator, output: Path, bars: Bars) -> None:
    """One person's video, by the same path that `launch.animate` takes."""
    side = animator.system.image_size
    with tempfile.TemporaryDirectory() as folder:
        portrait, landmarks = Path(folder) / f"{case.name}.png", Path(folder) / f"{case.name}.npz"
        write_image(portrait, case.portrait)
        save_landmarks(landmarks, LandmarkSequence(1.0, side, side, case.reference_landmarks[None]))
        job = Job(
            portrait=portrait,
            portrait_landmarks=landmarks,
            driving=cases.DRIVING,
            audio=cases.SOUND,
            output=output / f"{case.name}.mp4",
        )
        about = {"checkpoint": identify(EMBEDDED[animator.system.name])}
        animate_files(
            animator, job, about=about, report=lambda what, *counts: bars.report(f"{case.name}: {what}", *counts)
        )


def sheet(people: list[Case], videos: dict[str, np.ndarray]) -> np.ndarray:
    """Per person: the portrait and frames of the result, and below them what the person would really look like."""
    rows, labels = [], []
    for case in people:
        shown = np.linspace(0, len(case.truth) - 1, SHEET_FRAMES).astype(int)
        rows.append([case.portrait, *videos[case.name][shown]])
        rows.append([np.full_like(case.portrait, 250), *case.truth[shown]])
        labels += [case.name, "truth"]
    return contact_sheet(rows, labels, ["portrait"], cell=case.portrait.shape[0])


if __name__ == "__main__":
    cli.run(main, __doc__)
