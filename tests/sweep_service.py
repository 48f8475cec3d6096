"""A stand-in for the sweep service of Weights & Biases on the loopback: it hands out runs, one at a time."""

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SweepService(ThreadingHTTPServer):
    """Answers what `wandb agent` asks by GraphQL.

    Args:
        config: of the sweep, in YAML.
        runs: parameters by name of each run to hand out.
    """

    def __init__(self, config: str, runs: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config, self.waiting = config, list(enumerate(runs))

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "agentHeartbeat" in query:
            commands = self._commands(json.loads(variables["runState"]))
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
        if "sweep(sweepName" in query:
            sweep = {
                "id": "1",
                "name": "s1",
                "state": "RUNNING",
                "config": self.config,
                "runs": {"edges": []},
            }
            return {"project": {"sweep": sweep}}
        person = {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": person, "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def _commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        if running:
            return []
        if not self.waiting:
            return [{"type": "exit"}]
        number, parameters = self.waiting.pop(0)
        values = {name: {"value": value} for name, value in parameters.items()}
        return [{"type": "run", "run_id": f"run{number}", "program": "train.py", "args": values}]


class _Handler(BaseHTTPRequestHandler):
    server: SweepService

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {}
        if self.path.endswith("/graphql"):
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            asked = json.loads(content)
            answer = self.server.answer(asked["query"], asked.get("variables") or {})
        body = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
