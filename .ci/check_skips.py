"""Fails when a test that needs no GPU was skipped: in CI everything else is installed."""

import sys
import xml.etree.ElementTree as ElementTree

cases = list(ElementTree.parse(sys.argv[1]).iter("testcase"))
skipped = {
    f"{case.get('classname')}.{case.get('name')}": found.get("message", "")
    for case in cases
    if (found := case.find("skipped")) is not None
}
unexpected = {name: reason for name, reason in skipped.items() if "GPU" not in reason}
for name, reason in unexpected.items():
    print(f"skipped: {name}: {reason}", file=sys.stderr)
failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
print(f"{len(cases) - failed - len(skipped)} passed, {failed} failed, {len(skipped)} skipped")
if not cases:
    sys.exit("no test ran")
sys.exit(f"{len(unexpected)} tests were skipped for another reason than a missing GPU" if unexpected else 0)
