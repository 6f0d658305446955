"""Reads the documentation for its tests: code blocks, command lines, and the files that these name."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import ROOT
from tests.data import archives


@dataclass(frozen=True)
class Page:
    """A Markdown page.

    Args:
        name: its path in the repository, such as docs/python.md.
    """

    name: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def text(self) -> str:
        return self.path.read_text()

    def blocks(self, language: str) -> list[str]:
        """Return the contents of the code blocks in a language."""
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)

    def files(self) -> dict[str, str]:
        """Return the blocks that begin with a comment `# folder/name.py` or `# folder/name.yaml`, by this path."""
        found = {}
        for block in self.blocks("python") + self.blocks("yaml"):
            named = re.match(r"(?:# @package _global_\n)?# (\S+/\S+\.(?:py|yaml))\n", block)
            if named:
                found[named[1]] = block
        return found

    def scripts(self) -> list[str]:
        """Return the Python blocks that are not files."""
        return [block for block in self.blocks("python") if block not in self.files().values()]

    def shell(self) -> list[str]:
        """Return the lines of the shell blocks; a continued line is one."""
        return "\n".join(self.blocks("sh")).replace("\\\n", " ").splitlines()

    def commands(self) -> list[list[str]]:
        """Return the command lines as arguments of `python -m sweep`."""
        typed = [line.removeprefix("python -m sweep") for line in self.shell() if line.startswith("python -m sweep")]
        return [shlex.split(line, comments=True) for line in typed]

    def command(self, part: str) -> list[str]:
        """Return the only command line with a word that contains `part`."""
        (found,) = [words for words in self.commands() if any(part in word for word in words)]
        return found

    def write_files(self, folder: Path) -> None:
        for name, content in self.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


PAGES = [
    Page("README.md"),
    Page("benchmarks/README.md"),
    *(Page(f"docs/{path.name}") for path in sorted((ROOT / "docs").glob("*.md"))),
]


def write_data(folder: Path) -> None:
    """Write the files that command lines name as `dataset.path`, with few examples; not those of Hugging Face."""
    rng = np.random.default_rng(0)
    for name in ("fashion", "digits"):
        archives.write_mnist(folder / name)
    archives.write_tar(folder / "cifar-10-binary.tar.gz", archives.cifar10(300))
    (folder / "cifar-100-binary").mkdir()
    for name, content in archives.cifar100().items():
        (folder / "cifar-100-binary" / name).write_bytes(content)
    archives.write_images(folder / "photos", {"cat": 5, "dog": 5})
    archives.write_images(folder / "scans" / "train", {"cat": 5, "dog": 5})
    archives.write_images(folder / "scans" / "test", {"cat": 2, "dog": 2})
    flowers = pd.DataFrame({"width": rng.normal(size=20), "species": ["rose", "lily"] * 10})
    flowers.to_csv(folder / "flowers.csv", index=False)
    houses = {"rooms": np.arange(20), "area": rng.normal(size=20), "price": rng.normal(size=20)}
    pd.DataFrame(houses).to_parquet(folder / "houses.parquet")
    np.savez(folder / "mine.npz", x=rng.normal(size=(60, 4)), y=rng.integers(0, 3, 60))
    (folder / "shakespeare.txt").write_text("To be, or not to be, that is the question.\n" * 100)
    (folder / "data" / "openwebtext").mkdir(parents=True)
    for name, n in {"train": 5000, "val": 2000}.items():
        rng.integers(0, 50304, n).astype(np.uint16).tofile(folder / "data" / "openwebtext" / f"{name}.bin")
