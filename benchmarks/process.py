"""The driver's end of a worker: starts it, asks it, notices when it dies."""

import dataclasses
import json
import queue
import subprocess
import threading
from pathlib import Path

from benchmarks.cases import Case

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 600


class WorkerFailed(Exception):
    """The process can't take part, ended, or took far too long and was ended."""


class Process:
    """A worker process; after it died the next request starts it anew."""

    def __init__(self, python: Path, module: str, log: Path):
        """Starts nothing yet.

        Args:
            python: the environment's interpreter.
            module: what it runs.
            log: where its standard error goes.
        """
        self.name = module.rpartition(".")[2]
        self.command, self.log = [str(python), "-m", module], log
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.case: Case | None = None

    def versions(self) -> dict[str, str]:
        """What the environment holds."""
        return self._ask(do="versions")["versions"]

    def contestants(self, case: Case) -> list[str]:
        """Who takes part; the case is the one that later requests are about."""
        self.case = case
        answer = self._ask(do="contestants", case=dataclasses.asdict(case))
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["names"]

    def prepare(self, name: str) -> dict:
        """Compiles or warms up; holds ``repetitions`` to make, or ``seconds``, or ``error``."""
        assert self.case is not None
        return self._ask(
            do="prepare",
            name=name,
            sample_seconds=self.case.sample_seconds,
            limit_seconds=self.case.limit_seconds,
        )

    def sample(self, name: str) -> dict:
        """Holds ``seconds`` of a unit of work."""
        return self._ask(do="sample", name=name)

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None

    def _start(self) -> None:
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen, lines: queue.Queue) -> None:
        try:
            for line in process.stdout or ():
                lines.put(line)
        except ValueError:  # closed while reading
            pass
        lines.put(None)

    def _ask(self, **request) -> dict:
        if self.process is None:
            self._start()
            if request["do"] in ("prepare", "sample") and self.case is not None:
                self._ask(do="contestants", case=dataclasses.asdict(self.case))
        process = self.process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self.lines.get(timeout=_TIMEOUT_SECONDS)
        except (BrokenPipeError, queue.Empty):
            line = None
        if line is None:
            code = process.poll()
            self.close()
            raise WorkerFailed(f"its process ended ({code})" if code else "it took too long")
        return json.loads(line)
