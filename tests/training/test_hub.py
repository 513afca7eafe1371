"""Pushing a run: what a hub on loopback is asked for, and what it refuses."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nlp_transfer import train
from nlp_transfer.errors import OutputError, RecipeError


class Hub(BaseHTTPRequestHandler):
    """Keeps every request; takes all files as they come, without large file storage."""

    refuses = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, body))
        if self.refuses:
            return self._answer({"error": "this token may only read"}, 403)
        if self.path.startswith("/api/repos/create"):
            name = "/".join(filter(None, [json.loads(body).get("organization"), json.loads(body)["name"]]))
            return self._answer({"url": f"{self.server.url}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        url = f"{self.server.url}/me/kitchen/commit/0123456789abcdef0123456789abcdef01234567"
        return self._answer({"commitUrl": url, "commitOid": url[-40:], "success": True})

    def do_GET(self):
        self.server.asked.append((self.path, b""))
        self._answer({"id": "me/kitchen", "siblings": []})

    def _answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()


def test_a_run_is_pushed_in_one_commit_with_its_card(make_recipe, hub, tmp_path):
    training = {"push_to_hub": True, "hub_model_id": "me/kitchen", "hub_private_repo": True}
    train(make_recipe(strategy={"kind": "frozen"}, training=training))
    created, commit = hub.asked[0], hub.asked[-1]
    assert created[0] == "/api/repos/create"
    assert json.loads(created[1])["visibility"] == "private"
    assert commit[0] == "/api/models/me/kitchen/commit/main"
    lines = [json.loads(line) for line in commit[1].splitlines()]
    sent = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
    on_disk = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert set(sent) == on_disk | {"README.md"}
    card = base64.b64decode(sent["README.md"]["content"]).decode()
    assert card == (tmp_path / "run" / "README.md").read_text()
    assert "pipeline(\"text-classification\", model='me/kitchen')" in card
    weights = base64.b64decode(sent["model.safetensors"]["content"])
    assert weights == (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert sum("/commit/" in path for path, _ in hub.asked) == 1


def test_a_hub_that_refuses_is_told_before_the_training(make_recipe, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(Hub, "refuses", True)
    recipe = make_recipe(strategy={"kind": "frozen"}, training={"push_to_hub": True})
    with pytest.raises(OutputError, match="HF_TOKEN"):
        train(recipe)
    assert not (tmp_path / "run").exists()


def test_fields_of_the_hub_that_do_not_fit(make_recipe):
    with pytest.raises(RecipeError, match="hf auth login"):
        make_recipe(training={"hub_token": "hf_x"})
    with pytest.raises(RecipeError, match="hub_strategy"):
        train(make_recipe(training={"push_to_hub": True, "hub_strategy": "every_save"}))
