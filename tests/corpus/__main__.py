"""`python -m tests.corpus FOLDER`: brings a lab up and holds Hauberk against the parser, text by text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tests.corpus.compare import texts
from tests.e2e.cluster import APPARMOR_NODES, NODES
from tests.e2e.prepared import lab, lab_with_image

HELP = """Apply each text of FOLDER and compare what came of it with the parser's own word.

FOLDER is only read. Its AppArmor texts are the files in FOLDER/apparmor, or where there is no such folder,
those in FOLDER itself. On every node with AppArmor the image's apparmor_parser is asked by itself whether it
takes a text, and what it makes of it. Hauberk has to agree: Ready, with the same names and the same hash in
the kernel; or refused, with the parser's line, and nothing loaded. What Hauberk refuses by its own rules is
listed.

Files in it that end in .cil or .json are SELinux modules and seccomp profiles: each is loaded, seen on the
nodes and removed again, or refused with a reason that is printed.

\b
Examples:
  make corpus CORPUS=profiles-of-a-friend
  python -m tests.corpus /etc/apparmor.d
  KEEP_LAB=1 LAB_NAME=mine python -m tests.corpus .

The lab is called `corpus`, or as LAB_NAME says. One that is up already is used and stays up; KEEP_LAB=1
also keeps one that this command brought up. Exit code: 0 if all agree, 1 if any does not, 2 for wrong use,
else that of the lab.
"""


def main(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="FOLDER")]) -> None:
    """Bring the lab up, run the comparison inside of it, and end what was brought up."""
    others = any(one.suffix in (".cil", ".json") for one in folder.rglob("*"))
    apparmor = bool(texts(folder)) if (folder / "apparmor").is_dir() or not others else False
    if not (apparmor or others):
        raise typer.BadParameter(f"{folder} holds no policy, nor does its folder `apparmor`")
    try:
        with lab_with_image("corpus", NODES if others else APPARMOR_NODES, used=True):
            for module in ["run"] * apparmor + ["modules"] * others:
                lab("run", "--", sys.executable, "-m", f"tests.corpus.{module}", str(folder.resolve()))
    except subprocess.CalledProcessError as error:
        raise typer.Exit(error.returncode) from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})(main)
    app(prog_name="python -m tests.corpus")
