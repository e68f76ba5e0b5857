#!/usr/bin/env python3
"""Checks the licences and sources of every crate that the workspace is built from, as `cargo metadata` lists them.

In place of cargo-deny, whose build takes longer than all else in `.ci/run` together and whose other half needs an
advisory database from the network. The rules:

- every crate's SPDX expression can be satisfied with licences of ALLOWED;
- every crate comes from crates.io or from this workspace, none from git, a path outside, or another registry;
- no crate of BANNED is there, in any role;
- the workspace's own crates are never published by accident.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Permissive licences that ask for no more than their text and notices, which a binary distribution carries.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}

# Crates that must not come in, each with the reason.
BANNED = {
    "aws-lc-sys": "rustls is built with ring; two crypto libraries are one too many, and this one needs cmake",
    "native-tls": "TLS is rustls",
    "openssl": "TLS is rustls",
    "openssl-sys": "TLS is rustls",
}

CRATES_IO = {
    "registry+https://github.com/rust-lang/crates.io-index",
    "sparse+https://index.crates.io/",
}


def tokens(expression):
    # Old manifests write MIT/Apache-2.0 for OR.
    return re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))


def satisfied(expression, allowed=ALLOWED):
    """Whether an SPDX expression can be met with the allowed licences. AND binds closer than OR."""
    left = tokens(expression)

    def either():
        value = both()
        while left and left[0] == "OR":
            left.pop(0)
            value = both() or value
        return value

    def both():
        value = single()
        while left and left[0] == "AND":
            left.pop(0)
            value = single() and value
        return value

    def single():
        if not left:
            raise ValueError(f"incomplete: {expression!r}")
        licence = left.pop(0)
        if licence == "(":
            value = either()
            if not left or left.pop(0) != ")":
                raise ValueError(f"unbalanced: {expression!r}")
            return value
        if left and left[0] == "WITH":
            left.pop(0)
            licence += " WITH " + left.pop(0)
        return licence in allowed

    value = either()
    if left:
        raise ValueError(f"cannot read {expression!r}")
    return value


def faults(package, members):
    """What is wrong with one package of cargo's metadata."""
    name = f"{package['name']} {package['version']}"
    if package["id"] in members:
        if package.get("publish") != []:
            yield f"{name}: a crate of the workspace without `publish = false`"
    elif package["source"] not in CRATES_IO:
        yield f"{name}: from {package['source'] or package['manifest_path']}, not from crates.io"
    if package["name"] in BANNED:
        yield f"{name}: banned: {BANNED[package['name']]}"
    if not package["license"]:
        yield f"{name}: says no licence"
    else:
        try:
            if not satisfied(package["license"]):
                yield f"{name}: licence {package['license']} is not allowed"
        except ValueError as error:
            yield f"{name}: {error}"


def self_test():
    for expression, expected in {
        "MIT": True,
        "GPL-3.0-only": False,
        "GPL-3.0-only OR MIT": True,
        "MIT/Apache-2.0": True,
        "MIT AND GPL-3.0-only": False,
        "MIT OR GPL-2.0-only AND GPL-3.0-only": True,
        "(MIT OR Apache-2.0) AND Unicode-3.0": True,
        "(MIT OR Apache-2.0) AND GPL-3.0-only": False,
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only": True,
        "Apache-2.0 WITH unknown-exception": False,
    }.items():
        assert satisfied(expression) is expected, expression
    package = {"id": "x", "name": "x", "version": "1", "license": "MIT", "source": "registry+https://example.org"}
    assert list(faults({**package, "manifest_path": ""}, set()))
    package["source"] = next(iter(CRATES_IO))
    assert not list(faults(package, set()))
    assert list(faults({**package, "name": "openssl"}, set()))
    assert list(faults({**package, "license": None}, set()))
    assert list(faults({**package, "publish": None}, {"x"}))
    for broken in ("MIT OR", "(MIT", "MIT MIT"):
        try:
            satisfied(broken)
        except ValueError:
            continue
        raise AssertionError(broken)
    print("the licence check finds what it should")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--locked"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    members = set(metadata["workspace_members"])
    found = [fault for package in metadata["packages"] for fault in faults(package, members)]
    print("\n".join(found) or f"{len(metadata['packages'])} crates, all allowed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
