"""Which of the processes that test at the same time this is (`pytest -n`): 0 where there is one. Each has its own ports and its own
addresses of namespaces."""
import os

TESTERS_MAX = 4
TESTER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = f"{12000 + 5000 * TESTER}-{16999 + 5000 * TESTER}"  # Below those that the system gives away.
assert TESTER < TESTERS_MAX, f"{TESTERS_MAX} testers at most: no more ports are set apart"
