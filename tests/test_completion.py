"""Completion in shells: what each of them offers when the key is pressed."""

import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from citysegzoo.cli import main

Offered = Callable[..., set[str]]

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _citysegzoo; echo "${COMPREPLY[@]}"
"""
# In the start-up file of a shell whose keys are pressed: that of the tabulator writes what is
# offered to a file, and ends the shell.
ZSH = """
source completion.zsh
compadd() {
    local -a fit
    builtin compadd -O fit "$@"
    print -rl -- $fit >> offered
    builtin compadd "$@"
}
press() { zle complete-word; exit }
zle -N press
bindkey '\t' press
"""
FISH = "source completion.fish; complete -C $argv[1]"


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, capsys, monkeypatch) -> str:
    """A shell, whose script is in the current folder."""
    if not shutil.which(request.param):
        pytest.skip(f"there is no {request.param} here")
    monkeypatch.chdir(tmp_path)
    assert main(["completion", request.param]) == 0
    Path(f"completion.{request.param}").write_text(capsys.readouterr().out)
    return request.param


@pytest.fixture
def offered(shell: str, tmp_path: Path) -> Offered:
    """What the shell offers for the last of the words after `citysegzoo`, files among it."""
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path)}

    def printed(*command: str) -> list[str]:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    def in_bash(*words: str) -> set[str]:
        (line,) = printed("bash", "-c", BASH, "bash", "completion.bash", "citysegzoo", *words)
        return set(line.split())

    def in_zsh(*words: str) -> set[str]:
        Path(".zshrc").write_text(ZSH)
        Path("offered").write_text("")
        terminal, its_end = pty.openpty()
        os.write(terminal, " ".join(("citysegzoo", *words)).encode() + b"\t")
        try:
            subprocess.run(
                ["zsh", "-d", "-i"],  # without the start-up files of the machine
                stdin=its_end,
                stdout=its_end,
                stderr=its_end,
                env=environment,
                start_new_session=True,
                timeout=60,
            )
            shown = os.read(terminal, 65536).decode()
        finally:
            os.close(its_end)
            os.close(terminal)
        assert "not found" not in shown
        return set(Path("offered").read_text().split("\n")) - {""}

    def in_fish(*words: str) -> set[str]:
        lines = printed("fish", "-c", FISH, " ".join(("citysegzoo", *words)))
        return {line.split("\t")[0] for line in lines}

    return {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}[shell]


def test_syntax(shell: str) -> None:
    script = f"completion.{shell}"
    text = Path(script).read_text()
    for part in ("unet.small", "segment", "palette", "cityscapes34", "mei2019", "draw"):
        assert part in text
    subprocess.run([shell, "-n", script], check=True)


def test_what_is_offered(offered: Offered) -> None:
    assert offered("seg") == {"segment"}
    assert {"segment", "models", "data", "completion"} <= offered("")
    assert offered("--debug", "seg") == {"segment"}
    assert offered("segment", "--pre") == {"--precision"}
    assert offered("segment", "--precision", "") == {"auto", "fp32", "bf16", "fp16"}
    trained = offered("segment", "--model", "unet")
    assert {"unet.small", "unet_resnet18.street"} <= trained
    assert "unet" not in trained  # which has no weights
    assert "unet.small" in offered("export", "--logits", "unet")
    assert "unet.small" in offered("compare", "a.jpg", "--models", "segformer_b0", "unet")
    assert offered("show", "unet_vgg16_b") == {"unet_vgg16_bn"}
    assert offered("data", "") == {"check", "draw"}
    assert offered("data", "check", "--data", "cam") == {"camvid"}
    assert offered("evaluate", "a", "b", "--labels", "camvid") == {"camvid11"}
    assert offered("completion", "f") == {"fish"}


@pytest.mark.parametrize("shell", ["bash"], indirect=True)  # which splits words there
def test_values_after_an_equals_sign(offered: Offered) -> None:
    assert offered("segment", "--precision", "=", "b") == {"bf16"}
    assert {"auto", "bf16"} <= offered("segment", "--precision", "=")


def test_words_that_are_commands_elsewhere(offered: Offered) -> None:
    assert offered("segment", "data", "--output", "show", "--pre") == {"--precision"}
    assert offered("segment", "data", "--scal") == {"--scales"}
    assert offered("segment", "data", "che") == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"], indirect=True)  # bash does so itself
def test_files_where_nothing_else_is_to_be_said(offered: Offered) -> None:
    Path("street.jpg").touch()
    assert offered("segment", "str") == {"street.jpg"}
    assert offered("segment", "--model", "unet.small", "str") == {"street.jpg"}
