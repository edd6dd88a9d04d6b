#!/usr/bin/env python3
"""A tokeniser for tests: one token a byte, and three special tokens. Some texts make it misbehave."""

import base64
import json
import os
import sys
import time

SPECIAL = {"<|begin|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}


def tokenize(text: str) -> list[int]:
    tokens = []
    while text:
        special = next((name for name in SPECIAL if text.startswith(name)), None)
        if special is None:
            tokens += text[0].encode()
            text = text[1:]
        else:
            tokens.append(SPECIAL[special])
            text = text[len(special) :]
    return tokens


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


assert sys.argv[1] == "--vocabulary" and open(sys.argv[2], "rb").read(4) == b"GGUF"
assert "SECRET_OF_THE_PARENT" not in os.environ
pieces = [base64.b64encode(bytes([byte])).decode() for byte in range(256)] + [""] * len(SPECIAL)
say({"ready": {"pieces_base64": pieces, "eog": [258], "bos": 256, "eos": 258, "add_bos": True}})
for line in sys.stdin:
    request = json.loads(line)
    asked = request["tokenize"]
    assert asked["parse_special"] is True and asked["add_special"] is False
    if "CRASH" in asked["text"]:
        os.abort()
    if "NONSENSE" in asked["text"]:
        print("this is no JSON", flush=True)
        continue
    if "HANG" in asked["text"]:
        time.sleep(3600)
    if "REFUSE" in asked["text"]:
        say({"id": request["id"], "error": "no tokens for this"})
        continue
    say({"id": request["id"], "tokens": tokenize(asked["text"])})
