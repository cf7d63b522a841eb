"""What the checks beside other libraries share: running the program, and counting what agrees."""
import pathlib, subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def run(*command, may_fail=False):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0 and not may_fail:
        raise RuntimeError(f"{' '.join(str(part) for part in command)}\n{done.stderr.strip()}")
    return done


class Tally:
    def __init__(self):
        self.compared, self.failed, self.worst, self.skipped = 0, [], 0.0, []

    def add(self, what, difference, tolerance, of="of the largest"):
        self.compared += 1
        self.worst = max(self.worst, difference)
        if not difference < tolerance:
            self.failed.append(f"{what}: {difference:.1e} {of}")
        print(f"{what:52s} {difference:.1e} {of}", flush=True)

    def fail(self, what, problem):
        self.failed.append(f"{what}: {problem}")
        print(f"{what:52s} FAILED {str(problem).strip().splitlines()[-1][:300]}", flush=True)
