"""A program that takes training steps in turns with others, so that what else goes on on the machine meets all alike."""

import json
import statistics
import subprocess
import sys


class Stepper:
    """A process that takes a training step when asked to, and answers with its seconds.

    The program understands --on-request; its last line is a JSON object. It is ready when this object is: its first step
    is not counted.
    """

    def __init__(self, command: list) -> None:
        self.command = [*map(str, command), "--on-request"]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.step()
        self.seconds.clear()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.command)}: exit status {self.process.wait()}")
        return json.loads(line)

    def step(self) -> None:
        print(file=self.process.stdin, flush=True)
        self.seconds.append(self.read())

    def finish(self) -> dict:
        """The figures that the program ends with."""
        figures = self.read()
        self.process.wait()
        return figures


def ratios(ours: list[float], rivals: list[list[float]]) -> str:
    """Best and median step of ours beside the better of the rivals."""
    columns = []
    for name, figure in (("best", min), ("median", statistics.median)):
        mine, theirs = figure(ours), min(map(figure, rivals))
        columns.append(f"{name} {mine:6.3f} s, PyTorch {theirs:6.3f} s: x{theirs / mine:5.2f}")
    return "   ".join(columns)
