"""Many clients ask a server at once, some go away, and every answer is compared with the right one.

``python -m tests.soak.runner --requests 2000 --clients 16`` prints what happened, and fails if an
answer was wrong, an error was none of the client's, or the server's memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import time
from dataclasses import dataclass, field

import httpx2
import psutil

from tests.support.served_questions import Question, questions
from tests.support.server_process import ServerProcess

PATH = "/v1/chat/completions"
BAD = 0.03
"""Share of requests that cannot be answered."""

GROWTH = 0.05
"""Most by which memory may grow between the second quarter of the requests and the last."""

SLACK = 24 * 2**20
"""Bytes by which memory may differ all the same."""


@dataclass
class Outcome:
    """What happened.

    Attributes:
        statuses: Responses by status.
        cancelled: Requests whose client went away.
        wrong: What was wrong.
        memory: Resident bytes of the server after each request.
        seconds: Time of all requests.
    """

    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth(self) -> int:
        """Bytes by which memory grew after the first quarter."""
        quarter = len(self.memory) // 4
        early, late = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return sorted(late)[len(late) // 2] - sorted(early)[len(early) // 2]

    def problems(self) -> list[str]:
        """Return what must not happen and did."""
        found = self.wrong[:5]
        found += [f"{n} responses of {s}" for s, n in self.statuses.items() if s >= 500]
        most = GROWTH * self.memory[len(self.memory) // 4] + SLACK
        if self.growth > most:
            found.append(f"memory grew by {self.growth >> 20} MiB")
        return found


class Clients:
    """Clients that take numbered requests until none is left."""

    def __init__(self, server: ServerProcess, pool: list[Question], args: argparse.Namespace):
        """Take what is asked."""
        self._pool, self._args, self._name = pool, args, server.name
        self._process = psutil.Process(server.process.pid)
        self._numbers = iter(range(args.requests))
        self.outcome = Outcome()
        limits = httpx2.Limits(max_connections=None)
        self._http = httpx2.AsyncClient(base_url=server.url, timeout=600, limits=limits)

    async def run(self) -> Outcome:
        """Ask everything."""
        began = time.monotonic()
        async with self._http:
            await asyncio.gather(*(self._client() for _ in range(self._args.clients)))
            self.outcome.seconds = time.monotonic() - began
            await self._idle()
        return self.outcome

    async def _client(self) -> None:
        for number in self._numbers:
            rng = random.Random(f"{self._args.seed} {number}")
            try:
                await self._request(rng)
            except httpx2.HTTPError as error:
                self.outcome.wrong.append(f"request {number}: {error!r}")
            memory = self.outcome.memory
            memory.append(self._process.memory_info().rss)
            if len(memory) % 200 == 0:
                print(f"{len(memory)} requests, {memory[-1] >> 20} MiB", file=sys.stderr)

    async def _request(self, rng: random.Random) -> None:
        """Make one request of some kind."""
        question, draw = rng.choice(self._pool), rng.random()
        if draw < self._args.cancelled:
            await self._leave(question, rng)
        elif draw < self._args.cancelled + BAD:
            await self._fail(question, rng)
        else:
            await self._ask(question, stream=rng.random() < 0.5)

    async def _ask(self, question: Question, *, stream: bool) -> None:
        """Ask until there is room, and check the answer."""
        while True:
            body = {**question.body, "model": self._name, "stream": stream}
            response = await self._http.post(PATH, json=body)
            self.outcome.statuses[response.status_code] += 1
            if response.status_code != 429:
                break
            await asyncio.sleep(min(float(response.headers["Retry-After"]), 0.2))
        said = _streamed(response.text) if stream else response.text
        if response.status_code == 200 and not stream:
            said = response.json()["choices"][0]["message"]["content"]
        if said != question.answer:
            self.outcome.wrong.append(f"{said[:200]!r} instead of {question.answer!r}")

    async def _leave(self, question: Question, rng: random.Random) -> None:
        """Ask, and go away before the answer is complete."""
        self.outcome.cancelled += 1
        body = {**question.body, "stream": True}
        try:
            async with asyncio.timeout(rng.choice([0.001, 0.02, 0.1, 30])):
                async with self._http.stream("POST", PATH, json=body) as response:
                    left = rng.randint(0, 4)
                    async for _ in response.aiter_lines():
                        left -= 1
                        if left < 0:
                            return
        except TimeoutError:
            pass

    async def _fail(self, question: Question, rng: random.Random) -> None:
        """Ask what cannot be answered."""
        wrong = rng.choice(
            [{"temprature": 1}, {"max_tokens": 10**6}, {"messages": []}, {"model": "another"}]
        )
        response = await self._http.post(PATH, json={**question.body, **wrong})
        self.outcome.statuses[response.status_code] += 1
        if not 400 <= response.status_code < 500:
            self.outcome.wrong.append(f"{wrong} was answered with {response.status_code}")

    async def _idle(self) -> None:
        """Check that nothing runs or waits any more."""
        for _ in range(100):
            text = (await self._http.get("/metrics")).text
            counts = [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith(("twigkit:num_requests_running", "twigkit:num_requests_waiting"))
            ]
            if counts == [0.0, 0.0]:
                return
            await asyncio.sleep(0.1)
        self.outcome.wrong.append("requests still run or wait after the last was answered")


def _streamed(text: str) -> str:
    """Put the pieces of a stream together."""
    pieces = []
    for event in text.split("\n\n"):
        data = event.removeprefix("data: ")
        if data and data != "[DONE]":
            chunk = json.loads(data)
            pieces += [choice["delta"].get("content", "") for choice in chunk.get("choices", [])]
            if "error" in chunk:
                pieces.append(str(chunk))
    return "".join(pieces)


def run(words: list[str]) -> Outcome:
    """Start a server and ask it.

    Args:
        words: The command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--cancelled", type=float, default=0.1)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    pool = questions(args.questions, most=16)
    with ServerProcess("--max-num-seqs", "12", "--max-queue", "3") as server:
        outcome = asyncio.run(Clients(server, pool, args).run())
    if server.errors:
        outcome.wrong.append("the server wrote to stderr: " + "".join(server.errors)[-2000:])
    return outcome


def main() -> int:
    """Run from the command line."""
    outcome = run(sys.argv[1:])
    print(
        f"{sum(outcome.statuses.values())} responses {dict(sorted(outcome.statuses.items()))}, "
        f"{outcome.cancelled} clients went away, {outcome.seconds:.0f} s, memory "
        f"{outcome.memory[-1] >> 20} MiB, {outcome.growth / 2**20:+.1f} MiB after the first quarter"
    )
    problems = outcome.problems()
    print("\n".join(problems) or "every answer was right")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
