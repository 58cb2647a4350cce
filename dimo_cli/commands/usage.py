"""What the command line itself gets wrong, told the way every other mistake is told.

The one place that guesses which command or option was meant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from dimo_cli.errors import DimoError, SpecError, nearest

# The base of all mistakes in arguments. Typer shows its derivatives alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """A group of commands that guesses which one was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names."""
        name = args[0]
        if not (name in self.commands or name.startswith("-") or ctx.resilient_parsing):
            raise unknown_command(name, ctx, list(self.commands))
        self.load(name)
        return super().resolve_command(ctx, args)

    def load(self, name: str) -> None:
        """Make sure that a command is there with its options."""

    def loaded(self) -> Mapping[str, Any]:
        """All commands with their options."""
        for name in list(self.commands):
            self.load(name)
        return self.commands

    def main(self, args: Sequence[str] | None = None, **settings: Any) -> Any:  # type: ignore[override]
        """Run a command line, and leave with its exit code."""
        alone = settings.get("standalone_mode", True)
        settings["standalone_mode"] = False
        if not alone:
            return super().main(args, **settings)
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(args, **settings)
        except (UsageError, DimoError) as error:
            if isinstance(error, DimoError) and os.environ.get("DIMO_DEBUG") == "1":
                raise
            from dimo_cli.console.output import out

            out.start(as_json="--json" in words)
            tell(error)
            code = SpecError.exit_code
        except typer.Abort:
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


class OnceEach(TyperCommand):
    """A command that refuses an option that is given twice, where only one could count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in order:
                if order.count(parameter) > 1 and takes_one(parameter):
                    raise SpecError(
                        f"`{parameter.opts[0]}` is given {order.count(parameter)} times, and only "
                        "one can count.",
                        "Leave the others out.",
                    )
        return super().parse_args(ctx, args)


def takes_one(parameter: Any) -> bool:
    """Whether a parameter is an option with one value."""
    is_option = parameter.param_type_name == "option"
    return is_option and not (parameter.multiple or parameter.is_flag or parameter.count)


@dataclass(frozen=True, slots=True)
class Later:
    """A command that is imported when somebody asks for it."""

    file: str
    """The one in this folder whose `app` has it, or is it."""
    help: str
    """As the list of commands shows it."""


def importing(table: Mapping[str, Later]) -> type[Commands]:
    """A group whose commands are only words until one of them is asked for."""

    class LaterCommands(Commands):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            for name, later in table.items():
                self.commands[name] = TyperCommand(name=name, help=later.help)
            self.missing = set(table)

        def load(self, name: str) -> None:
            if name in self.missing:
                self.missing.remove(name)
                app = import_module(f"dimo_cli.commands.{table[name].file}").app
                app.rich_markup_mode = self.rich_markup_mode
                group = typer.main.get_group(app)
                group.name = name
                self.commands[name] = group.commands.get(name, group)

    return LaterCommands


def tell(error: Any) -> None:
    """Report a mistake in the arguments; of no arguments at all, show what there is."""
    from dimo_cli.console.output import out

    if isinstance(error, DimoError):
        out.error(error)
    elif type(error).__name__ != "NoArgsIsHelpError":
        out.error(explained(error))
    elif help_page := error.format_message():  # a page with colors has been shown already
        typer.echo(help_page, err=True)


def explained(error: Any) -> SpecError:
    """The sentence for a mistake in the arguments of a command."""
    if error.ctx is None:
        return SpecError(error.format_message())
    path = error.ctx.command_path
    see = f"`{path} --help` shows what it takes."
    unknown = getattr(error, "option_name", None)
    if unknown is None or type(error).__name__ != "NoSuchOption":
        return SpecError(f"`{path}`: {error.format_message()}", see)
    known = [name for name in option_names(error.ctx.command) if name.startswith("--")]
    elsewhere = [
        f"`{other}`"
        for other, command in commands_below(error.ctx.find_root())
        if unknown in option_names(command)
    ]
    guess = nearest(unknown, known)
    if elsewhere and len(elsewhere) <= 3:
        see = f"It is an option of {' and '.join(elsewhere)}. {see}"
    elif guess:
        see = f"Did you mean `{guess}`? {see}"
    return SpecError(f"`{path}` has no option `{unknown}`.", see)


def unknown_command(name: str, ctx: Any, known: list[str]) -> SpecError:
    """The sentence for a command that does not exist, here or elsewhere."""
    path = ctx.command_path
    guess = nearest(name, known)
    meant = f"{path} {guess}" if guess else None
    if meant is None:
        deeper = {below.rpartition(" ")[2]: below for below, _ in commands_below(ctx.find_root())}
        found = nearest(name, deeper)
        meant = deeper[found] if found else None
    hint = f"Did you mean `{meant}`? " if meant else ""
    return SpecError(f"`{path}` has no command `{name}`.", f"{hint}Commands: {', '.join(known)}.")


def option_names(command: Any) -> list[str]:
    """All names of a command's options."""
    return [name for option in command.params for name in (*option.opts, *option.secondary_opts)]


def commands_of(command: Any) -> Mapping[str, Any]:
    """The commands of a group, each with its options; of another command none."""
    return command.loaded() if isinstance(command, Commands) else {}


def commands_below(ctx: Any) -> Iterator[tuple[str, Any]]:
    """Every command of the program with the words that call it."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, below in commands_of(command).items():
            yield f"{path} {name}", below
            yield from walk(f"{path} {name}", below)

    return walk(ctx.command_path, ctx.command)
