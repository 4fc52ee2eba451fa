"""`foveate doctor`: what works on this machine, and how to mend what does not."""

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> int:
    """Check the installation; exits 0 unless something essential fails."""
    from foveate.doctor import examine, is_healthy, report_lines

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print("\n".join(report_lines(finding)), flush=True)
    if as_json:
        print(json.dumps({"healthy": is_healthy(findings), "checks": [finding.to_json() for finding in findings]}))
    return 0 if is_healthy(findings) else 1
