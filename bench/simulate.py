"""Many replicas behind a balancer, simulated with measured service times: what docs/performance.md says of them.

.venv/bin/python bench/simulate.py            the tables and the plots of docs/performance.md
.venv/bin/python bench/simulate.py measure    service times of this machine, into bench/service_times.json
.venv/bin/python bench/simulate.py compare    two real replicas on this machine beside two simulated ones
"""

from __future__ import annotations

import argparse

import comparison
import scenarios
import service_times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["tables", "measure", "compare"], default="tables")
    parser.add_argument("--requests", type=int, default=800, help="of each load that is compared")
    chosen = parser.parse_args()
    if chosen.what == "measure":
        print(service_times.measure())
    elif chosen.what == "compare":
        comparison.compare(chosen.requests)
    else:
        scenarios.tables()


if __name__ == "__main__":
    main()
