"""``citysegzoo completion``: scripts that make a shell complete commands, options and names.

They are written from the parsers themselves, and hold the names of models, so that no Python runs
when the key is pressed. (`shtab` writes such scripts too, but one that lists the models would
start `citysegzoo models`, which imports PyTorch, at every key.)
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from citysegzoo.cli.common import Commands

# Where the shell has nothing of ours to offer, it offers files. zsh runs the script of bash.
_BASH = """\
# Completion of citysegzoo for {shell}, written by `citysegzoo completion {shell}`.
{preamble}_citysegzoo() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="" option="" words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${{COMP_WORDS[i]}}" in
            {commands}) command="${{command:+$command }}${{COMP_WORDS[i]}}" option="" ;;
            {switches}) option="" ;;
            *" =") ;;
            *" -"*) option="${{COMP_WORDS[i]}}" ;;
            *) case "$command $option" in
                {many}) ;;
                *) option="" ;;
            esac ;;
        esac
    done
    [[ "$word" == "=" ]] && word=""
    case "$command $option" in
{values}
    esac
    if [[ "$word" == -* ]]; then
        case "$command" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _citysegzoo citysegzoo
"""
# Who has no compinit in the start-up file has it here; -i asks nothing.
_ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit -i }
autoload -U +X bashcompinit && bashcompinit
"""

# As in bash: the command is what the words before say, whatever the others are.
_FISH = """\
# Completion of citysegzoo for fish, written by `citysegzoo completion fish`.
function __citysegzoo_command_is
    set -l command
    for word in (commandline -opc)[2..-1]
        switch "$command $word"
            case {commands}
                set command (string trim "$command $word")
        end
    end
    test "$command" = "$argv"
end
function __citysegzoo_option_is
    contains -- (commandline -opc | string match -- '-*')[-1] $argv
end
{lines}
"""

# What takes a saved model by the name of its file, too.
_TAKE_FILES = ("segment", "compare", "export")


def add_parsers(commands: Commands) -> None:
    """Add what this module runs to the commands."""
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description='For bash and zsh, put `eval "$(citysegzoo completion bash)"` (or zsh) or, '
        "faster, a file with what it prints into the shell's start-up file; for fish, write it "
        "to ~/.config/fish/completions/citysegzoo.fish. Print it again after an update.",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    completion.set_defaults(run=_completion)


def _completion(args: argparse.Namespace) -> int:
    from citysegzoo.cli import build_parser

    parsers = dict(_parsers(build_parser()))
    print(_fish(parsers) if args.shell == "fish" else _bash(parsers, args.shell), end="")
    return 0


def _parsers(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser and those of its commands, by the words that lead to them."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from _parsers(inner, f"{name} {word}".strip())


def _words(command: str, action: argparse.Action) -> list[str]:
    """What an argument may be, where that can be listed."""
    from citysegzoo.data.labels import LABEL_SETS
    from citysegzoo.factory import list_models
    from citysegzoo.peers import PEERS
    from citysegzoo.reports import list_reports

    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.type is Path:
        return []
    if action.dest in ("model", "models", "name", "names"):
        return list_models(pretrained=command in _TAKE_FILES)
    named: Mapping[str, Sequence[str]] = {
        "labels": list(LABEL_SETS),
        "report": list_reports(),
        "beside": list(PEERS),
        "device": ["auto", "cpu", "cuda"],
    }
    return list(named.get(action.dest, ()))


def _bash(parsers: Mapping[str, argparse.ArgumentParser], shell: str) -> str:
    values: list[str] = []
    options: list[str] = []
    many = ['"- -"']  # no command is called "-"
    switches: list[str] = []
    for command, parser in parsers.items():
        flags: list[str] = []
        for action in parser._actions:
            flags += action.option_strings
            patterns = [f'"{command} {flag}"' for flag in action.option_strings or [""]]
            words = _words(command, action)
            if words:
                values.append(f"{'|'.join(patterns)}) words={shlex.quote(' '.join(words))} ;;")
            if action.option_strings and action.nargs == 0:
                switches += patterns
            elif _takes_many(action):
                many += patterns
        options.append(f'"{command}") words="$words {" ".join(flags)}" ;;')
    return _BASH.format(
        shell=shell,
        preamble=_ZSH if shell == "zsh" else "",
        commands="|".join(f'"{_before_last(name)}"' for name in parsers if name),
        switches="|".join(switches),
        many="|".join(many),
        values="\n".join(f"        {line}" for line in values),
        options="\n".join(f"            {line}" for line in options),
    )


def _before_last(command: str) -> str:
    """``"data check"`` as is, ``"data"`` with the space that follows no command."""
    return command if " " in command else f" {command}"


def _takes_many(action: argparse.Action) -> bool:
    """Whether it is an option that several values follow."""
    return bool(action.option_strings) and action.nargs not in (None, 0, "?")


def _fish(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    return _FISH.format(
        commands=" ".join(shlex.quote(_before_last(name)) for name in parsers if name),
        lines="\n".join(
            f"complete -c citysegzoo -n {shlex.quote(condition)} {part}"
            for command, parser in parsers.items()
            for action in parser._actions
            for condition, part in _fish_parts(command, action)
        ),
    )


def _fish_parts(command: str, action: argparse.Action) -> Iterator[tuple[str, str]]:
    """What fish is told of an argument, when: its names, what it takes, and its help."""
    words = _words(command, action)
    here = f"__citysegzoo_command_is {command}".strip()
    offered = f"-a {shlex.quote(' '.join(words))}" if words else ""
    files = not words or (command in (*_TAKE_FILES, "show") and action.choices is None)
    if isinstance(action, argparse._SubParsersAction):
        helps: dict[str, Any] = {choice.dest: choice.help for choice in action._choices_actions}
        for word in words:
            yield here, f"-f -a {word} -d {shlex.quote(str(helps.get(word, '')))}"
    elif action.option_strings:
        flags = " ".join(
            f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            for flag in action.option_strings
        )
        takes = "" if action.nargs == 0 else "-r" if files else "-x"
        about = f"-d {shlex.quote(action.help or action.dest)}"
        yield here, " ".join(filter(None, (flags, takes, offered, about)))
        if words and _takes_many(action):  # fish itself completes the first value only
            after = f"__citysegzoo_option_is {' '.join(action.option_strings)}"
            yield f"{here}; and {after}", offered
    elif words:
        yield here, offered if files else f"-f {offered}"
