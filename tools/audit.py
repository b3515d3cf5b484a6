"""Known faults of the installed dependencies, by pip-audit; that its service was not reached is said, and is no pass.

Exit code 0: asked, and none is known. 1: some are, or some packages could not be looked up. 3: the service was not
reached, so that nothing is known; with --strict that is a failure, otherwise it is said and the code is 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

NOT_ASKED = 3
UNREACHED = "NOT AUDITED: the vulnerability service cannot be reached from here; run `make security` where it can"


def verdict(code: int, said: str, errors: str) -> tuple[int, list[str]]:
    """The exit code and the lines to be said, from what pip-audit gave."""
    try:
        found = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = errors.strip().splitlines()[-1] if errors.strip() else f"pip-audit ended with {code} and said nothing"
        return NOT_ASKED, [f"{UNREACHED} ({last[:200]})"]
    asked = [one for one in found if "vulns" in one]
    skipped = [one for one in found if "skip_reason" in one and "editable" not in one["skip_reason"]]
    if not asked:
        reason = skipped[0]["skip_reason"][:120] if skipped else "no package was looked up"
        return NOT_ASKED, [f"{UNREACHED} ({reason}; {len(skipped)} packages)"]
    faults = [f"{one['name']} {one['version']}: {fault['id']}" for one in asked for fault in one["vulns"]]
    lines = [*faults, *(f"{one['name']}: {one['skip_reason']}" for one in skipped)]
    return (1 if lines else 0), lines or [f"{len(asked)} packages were looked up, and no fault is known"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="fail where the service is not reached")
    strict = parser.parse_args().strict
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        code, lines = verdict(done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        code, lines = NOT_ASKED, [f"{UNREACHED} (no answer in ten minutes)"]
    print("\n".join(lines))
    return 0 if code == NOT_ASKED and not strict else code


if __name__ == "__main__":
    sys.exit(main())
