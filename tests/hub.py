"""A hub for one test, on this machine: repositories in memory, and the part of its HTTP interface we use."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Creation of repositories, commits of files, and their download."""

    def reply(self, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def read_body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_POST(self):
        repositories, body = self.server.repositories, self.read_body()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked['organization']}/{asked['name']}" if "organization" in asked else asked["name"]
            repositories.setdefault(repo_id, {})
            return self.reply({"url": f"{self.server.url}/{repo_id}"})
        if self.path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        repo_id, action = re.match(r"/api/models/([^/]+/[^/]+)/(\w+)/main", self.path).groups()
        if action == "preupload":
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                repositories[repo_id][line["value"]["path"]] = content
        return self.reply({"commitUrl": f"{self.server.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self):
        self.server.asked.append(self.path)
        found = re.match(r"/(?:api/models/)?([^/]+/[^/?]+)(?:/(\w+)/[^/?]+(?:/([^?]+))?)?", self.path)
        files = self.server.repositories.get(found[1]) if found else None
        if files is None:
            return self.reply(b"", 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if found[2] == "resolve":
            if found[3] not in files:
                return self.reply(b"", 404, X_Error_Code="EntryNotFound")
            content = files[found[3]]
            return self.reply(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        if found[2] == "tree":
            return self.reply(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": "0"}
                    for path, content in files.items()
                ]
            )
        siblings = [{"rfilename": path} for path in files]
        return self.reply({"id": found[1], "modelId": found[1], "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def hub(monkeypatch, cache):
    """Serve an empty hub, and have huggingface_hub use it with a cache folder of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.asked = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # huggingface_hub before 1.0 keeps a session that is offline
    getattr(huggingface_hub.utils._http, "reset_sessions", lambda: None)()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    # huggingface_hub before 1.0 downloads by a copy of it
    template = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"
    monkeypatch.setattr(template, constants.HUGGINGFACE_CO_URL_TEMPLATE, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
