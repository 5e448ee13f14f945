"""Makes and deletes the things of a deployment with gcloud, or prints a shell script that does."""

from __future__ import annotations

import re
import shlex
import subprocess
import time

from kubeflow.deployment import PROJECT_NUMBER, SHARED, STORAGE_AGENT, Grant, Thing

PATIENCE_SECONDS = 60
"""Seconds for which a grant is repeated: Google's other services may not know a new account yet."""


NOT_THERE = re.compile(r"not.?found|\b404\b|does not exist", re.IGNORECASE)


class Failed(Exception):
    """gcloud could not do what it should."""


class Gcloud:
    """Runs gcloud for a project, or only prints a shell script of what it would run."""

    def __init__(self, project: str, dry_run: bool) -> None:
        self.project, self.dry_run = project, dry_run
        self.asked = {  # What stands for an answer, the script's variable for it, and the question.
            STORAGE_AGENT.partition(":")[2]: ("STORAGE_AGENT", ["storage", "service-agent"]),
            PROJECT_NUMBER: ("PROJECT_NUMBER", ["projects", "describe", project, "--format=value(projectNumber)"]),
        }

    def command(self, arguments: list[str]) -> list[str]:
        for words, (variable, question) in self.asked.items():
            if any(words in argument for argument in arguments):
                answer = f"${variable}" if self.dry_run else self.call(question)
                arguments = [argument.replace(words, answer) for argument in arguments]
        return ["gcloud", *arguments, f"--project={self.project}", "--quiet"]

    def call(self, arguments: list[str]) -> str:
        command = self.command(arguments)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise Failed("there is no gcloud: install it from https://cloud.google.com/sdk/docs/install") from None
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.split()) or f"exit code {error.returncode}"
            again = "Give the same command again: what is done stays done."
            raise Failed(f"gcloud {' '.join(arguments[:3])} …: {reason}\n{again}") from None
        return done.stdout.strip()

    def shell(self, arguments: list[str]) -> str:
        # The script's variables have to be outside of single quotes.
        return re.sub(r"\$(STORAGE_AGENT|PROJECT_NUMBER)", r"""'"$\1"'""", shlex.join(self.command(arguments)))

    def do(self, what: str, arguments: list[str]) -> None:
        if self.dry_run:
            print(f"# {what}", self.shell(arguments), sep="\n", flush=True)
            return
        print(what, flush=True)
        self.call(arguments)

    def grant(self, grant: Grant) -> None:
        """Grants a role; to an account that was made just now as soon as Google's other services know it."""
        what, command = f"{grant.member.partition(':')[2]} has {grant.role}: {grant.why}", grant.command("add")
        if self.dry_run:
            again = f"tries=0\nuntil {self.shell(command)}; do"
            more = f'  [ "$tries" -lt {PATIENCE_SECONDS // 5} ] || exit 1; tries=$((tries + 1)); sleep 5'
            print(f"# {what}", again, more, "done", sep="\n", flush=True)
            return
        print(what, flush=True)
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.call(command)
                return
            except Failed as error:
                if not NOT_THERE.search(str(error)) or time.monotonic() > until:
                    raise
            time.sleep(5)

    def ask(self) -> None:
        """Sets the script's variables."""
        if self.dry_run:
            for variable, question in self.asked.values():
                print(f"{variable}=$({self.shell(question)})")

    def look(self, thing: Thing, wanted: bool) -> str | None:
        """What shows who made a thing; None where it is not there."""
        try:
            return self.call(question(thing))
        except Failed as error:
            # Of a bucket that is someone else's, making one of that name says more.
            if NOT_THERE.search(str(error)) or (wanted and re.search(r"\b403\b", str(error))):
                return None
            raise

    def if_there(self, thing: Thing, *then: str) -> None:
        """Begins the script's part for a thing; `$made` is what shows who made it."""
        print(f"if made=$({self.shell(question(thing))} 2>/dev/null); then", *then, sep="\n  ")

    def make(self, thing: Thing) -> None:
        """Makes a thing that is not there."""
        mine = thing.shows[1]
        if self.dry_run and thing.share:
            not_shared = f'[ -z "$made" ] || [ "$made" = {mine} ] || [ "$made" = {SHARED} ] ||'
            self.if_there(thing, not_shared, f"  {self.shell(thing.share)}")
            print("else", *map(self.shell, thing.create), sep="\n  ")
            print("fi")
            return
        if self.dry_run:
            print(f"{self.shell(thing.describe)} >/dev/null 2>&1 ||", *map(self.shell, thing.create), sep="\n  ")
            return
        made = self.look(thing, wanted=True)
        if made is None:
            print(f"{thing.what}: made", flush=True)
            for command in thing.create:
                self.call(command)
        elif thing.share and made not in ("", mine, SHARED):
            print(f"{thing.what}: used by {made}, too, so no destroy will delete it", flush=True)
            self.call(thing.share)

    def take_away(self, thing: Thing) -> None:
        """Deletes a thing that `create` made, or says what it leaves."""
        if not thing.delete:
            return
        mine, delete = thing.shows[1], self.shell(thing.delete)
        left = f"{thing.what}: left as it is: this deployment has not made it, or does not use it alone"
        if self.dry_run:
            self.if_there(thing, f'if [ "$made" = {shlex.quote(mine)} ]; then', f"  {delete}")
            print("  else", f"  echo {shlex.quote(left)}", "fi", sep="\n  ")
            print("fi")
            return
        made = self.look(thing, wanted=False)
        if made == mine:
            print(f"{thing.what}: deleted", flush=True)
            self.call(thing.delete)
        elif made is not None:
            print(f"{left}. To delete it all the same:\n  {delete}", flush=True)

    def refuse(self, thing: Thing) -> None:
        """Stops where a thing is there and is someone else's."""
        mine, delete = thing.shows[1], self.shell(thing.delete or [])
        problem = f"{thing.what} is there, and someone else's or never whole: give another --name, or say {delete}"
        if self.dry_run:
            stop = f"{{ echo {shlex.quote(problem)} >&2; exit 1; }}"
            self.if_there(thing, f'[ "$made" = {shlex.quote(mine)} ] || {stop}')
            print("fi")
        elif self.look(thing, wanted=True) not in (None, mine):
            raise Failed(problem)


def question(thing: Thing) -> list[str]:
    """Asks gcloud who made a thing."""
    return [*thing.describe, f"--format={thing.shows[0]}"]
