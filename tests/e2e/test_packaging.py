"""Manual, completions, units, container and chart name what the binary has. The packages themselves: ./dev check package."""
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import SOURCE

HELP_COMMAND = re.compile(r"^  ([a-z][a-z-]*) ", re.M)
HELP_FLAG = re.compile(r"^  (-[-\w,]*)", re.M)


@pytest.fixture(scope="module")
def commands(succeed):
    """Each command as a tuple of words, () for the program, with the flags that its help lists."""
    found = {}

    def look(words):
        text = succeed(*words, "--help")
        found[words] = {name for names in HELP_FLAG.findall(text) for name in names.split(",")}
        below = text.split("Subcommands:\n")[1:]
        for name in HELP_COMMAND.findall(below[0]) if below else ():
            look((*words, name))
    look(())
    return found


@pytest.fixture(scope="module")
def manual(succeed):
    return succeed("manual")


@pytest.fixture(scope="module")
def completions(succeed):
    return {shell: succeed("completion", shell) for shell in ("bash", "zsh", "fish")}


def test_the_manual_has_every_command_and_flag(commands, manual):
    sections = re.split(r"^\.SS ", manual.replace("\\-", "-"), flags=re.M)
    by_head = {re.match(r"\\fB([^\\]*)", one)[1]: one for one in sections[1:]}
    for words, flags in commands.items():
        text = by_head[" ".join(("shoal", *words))] if words else sections[0]
        for flag in flags - {"-h", "--help"}:
            assert f"\\fB{flag}\\fR" in text, f"{words}: {flag}"


def test_each_shells_completion_has_every_command_and_flag(commands, completions):
    for words, flags in commands.items():
        path = " ".join(words)
        bash = re.search(rf"^      '{path}'\) flags='([^']*)' words='([^']*)'", completions["bash"], re.M)
        assert set(bash[1].split()) == flags, f"bash: {path}"
        below = [other[-1] for other in commands if other[:-1] == words and other]
        assert set(below) <= set(bash[2].split())

        zsh = completions["zsh"].split(f"\n_{'_'.join(('shoal', *words))}() {{\n")[1].split("\n}\n")[0]
        fish = [line for line in completions["fish"].splitlines()
                if all(f"__fish_seen_subcommand_from {word}" in line for word in words)]
        for flag in flags:
            assert re.search(rf"'\*?{flag}\[", zsh), f"zsh: {path} {flag}"
            option = f"-l {flag[2:]} " if flag.startswith("--") else f"-s {flag[1:]} "
            assert any(option in f"{line} " for line in fish), f"fish: {path} {flag}"
        for name in below:
            assert f"{name}\\:" in zsh and any(f" -a {name} " in line for line in fish), f"{path} {name}"


@pytest.mark.parametrize("line, expected, unwanted", [
    ("shoal se", "serve", "worker"),
    ("shoal serve --on-l", "--on-loss", "--host"),
    ("shoal serve --on-loss ", "resume", "--host"),
    ("shoal serve --on-loss=", "resume", "--host"),
    ("shoal token ", "api-key", "serve"),
    ("shoal token create --key", "--key-file", "--name"),
    ("shoal --log-level debug wor", "worker", "serve"),
    ("shoal completion ", "fish", "serve"),
], ids=lambda value: value.strip())
def test_bash_completes_what_is_typed(completions, line, expected, unwanted):
    script = completions["bash"] + """
    read -ra COMP_WORDS <<<"${1//=/ = }"
    [[ $1 == *" " || $1 == *= ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _shoal
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True, timeout=20, check=True)
    words = done.stdout.split()
    assert expected in words and unwanted not in words, done.stdout + done.stderr


def flags_in(text):
    """(command, flag) of the commands of shoal in a text: each flag belongs to the command before it."""
    command = None
    for word in re.findall(r"--[a-z][\w-]*|(?<![\w/.-])(?:serve|worker|health|drain|doctor|ring|up)(?![\w/.-])", text):
        if not word.startswith("--"):
            command = word
        elif command:
            yield command, word


def test_units_container_and_chart_use_flags_that_there_are(commands):
    systemd = SOURCE / "deploy/systemd"
    texts = [(systemd / unit).read_text() + "\n" + re.sub(r"(?m)^#(?!  ).*", "", (systemd / env).read_text())
             for unit, env in (("shoal.service", "serve.env"), ("shoal-worker.service", "worker.env"))]
    container = (SOURCE / "deploy/container/Containerfile").read_text()
    texts.append(" ".join(re.findall(r"^(?:HEALTHCHECK .*?CMD|CMD) \[(.*)\]", container, re.M)))
    for name in ("coordinator", "worker", "tests/completion"):
        template = (SOURCE / f"deploy/helm/shoal/templates/{name}.yaml").read_text()
        texts.append("\n".join(line for line in template.splitlines() if not line.strip().startswith("#")))
    used = {pair for text in texts for pair in flags_in(text)}
    assert len(used) > 15, used
    for command, flag in used:
        assert flag in commands[(command,)], f"shoal {command} has no {flag}"


def test_chart_and_binary_have_the_version_of_the_project(succeed):
    version = re.search(r"project\(shoal VERSION (\S+)", (SOURCE / "CMakeLists.txt").read_text())[1]
    chart = yaml.safe_load((SOURCE / "deploy/helm/shoal/Chart.yaml").read_text())
    assert chart["version"] == version and chart["appVersion"] == version
    assert succeed("--version").strip() == f"shoal {version}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_units_give_away_little(tmp_path):
    for unit in ("shoal.service", "shoal-worker.service"):
        path = SOURCE / "deploy/systemd" / unit
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", path], capture_output=True,
                              text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
