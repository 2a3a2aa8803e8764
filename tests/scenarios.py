"""Prints every scenario of docs/resilience.md with the result of the tests that show it, from the last run of the Rust tests.

    tests/scenarios.py JUNIT.xml    what `cargo nextest run` left (see .config/nextest.toml)
    tests/scenarios.py LOG          or the output of `cargo test`

Ends with 1 if a scenario names a test that did not run or did not pass: the table in the docs is checked, not believed.
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "resilience.md"
# What stands before a test's name in the table, and the test binary it means; without one it is `resilience`.
BINARIES = {"b:": "blackbox", "sim:": "simulation", "unit:": "breakwater"}


def from_junit(path):
    """{(binary, test): passed}"""
    results = {}
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        binary = suite.get("name").split("::")[-1]
        for case in suite.iter("testcase"):
            passed = case.find("failure") is None and case.find("error") is None
            results[binary, case.get("name")] = passed
    return results


def from_log(path):
    results, binary = {}, None
    for line in pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        if running := re.match(r"\s*Running (?:unittests )?(\S+)", line):
            place = pathlib.PurePath(running[1])
            binary = "breakwater" if place.parts[0] == "src" else place.parts[1].removesuffix(".rs")
        elif test := re.match(r"test (\S+) \.\.\. (ok|FAILED)", line):
            results[binary, test[1]] = test[2] == "ok"
    return results


def scenarios():
    """(group, scenario, [(binary, test or module)])"""
    text = DOCS.read_text(encoding="utf-8")
    table = re.search(r"^## \d+\. The scenarios.*?(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    if table is None:
        sys.exit(f"{DOCS}: there is no section of scenarios")
    group = None
    for line in table[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|-: "):
            continue
        if cells[-1] == "shown by":
            group = cells[0]
            continue
        binary, tests = "resilience", []
        for part in cells[-1].split("·"):
            binary = next((b for mark, b in BINARIES.items() if part.strip().startswith(mark)), "resilience")
            # Not the words in brackets: they explain.
            bare = re.sub(r"\([^)]*\)", "", part)
            tests += [(binary, name) for name in re.findall(r"`([a-z0-9_:]+)`", bare)]
        yield group, cells[0].replace("`", ""), tests


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = sys.argv[1]
    results = from_junit(path) if path.endswith(".xml") else from_log(path)
    shown = wrong = 0
    last = None
    for group, scenario, tests in scenarios():
        if group != last:
            print(f"\n{group}")
            last = group
        complaints = [] if tests else ["names no test"]
        for binary, name in tests:
            # A module stands for all its tests.
            found = [ok for (b, test), ok in results.items() if b == binary and (test == name or test.startswith(name + "::"))]
            if not found:
                complaints.append(f"{binary} {name} did not run")
            elif not all(found):
                complaints.append(f"{binary} {name} failed")
        verdict = "; ".join(complaints) or "passed"
        print(f"  {scenario[:88]:<90}{verdict}")
        wrong += bool(complaints)
        shown += not complaints
    print(f"\nscenarios: {shown} shown, {wrong} not shown")
    sys.exit(1 if wrong or not shown else 0)


if __name__ == "__main__":
    main()
