"""The list of what is in the binary is whole, parses, and names licences."""
import json
import shutil
import subprocess
import sys

import pytest

from conftest import SOURCE


@pytest.mark.skipif(shutil.which("dpkg-query") is None or shutil.which("cargo") is None, reason="needs dpkg and cargo")
def test_the_sbom_lists_what_is_linked_with_versions_and_licences(shoal, tmp_path):
    out = tmp_path / "sbom.json"
    done = subprocess.run([sys.executable, SOURCE / "tools/sbom/sbom.py", shoal, "--out", out], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    bom = json.loads(out.read_text())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    assert bom["metadata"]["component"]["name"] == "shoal"
    components = bom["components"]
    names = [one["name"] for one in components]
    for wanted in ("libgrpc++", "libboost", "libssl3", "libprotobuf", "libc6", "nlohmann-json3-dev", "tokenizers", "minijinja",
                   "llguidance"):
        assert any(name.startswith(wanted) for name in names), f"{wanted} is missing"
    refs = [one["bom-ref"] for one in components]
    assert len(set(refs)) == len(refs) and bom["dependencies"] == [{"ref": "shoal", "dependsOn": refs}]
    for one in components:
        assert one["version"] and one["purl"].startswith("pkg:"), one
        assert one["licenses"], f"{one['name']} has no licence"
