from __future__ import annotations

import pytest

from zerosearch_env.privacy import HIDDEN, redact

SECRET = "Zx81-secret/value"


@pytest.mark.parametrize(
    "text",
    [
        f"retrieve:http://user:{SECRET.replace('/', '')}@host:80/search",
        f"http://{SECRET.replace('/', '')}@host",
        f"there is no folder https:/user:{SECRET.replace('/', '')}@host",
        f"web:serper?api_key={SECRET}&top=5",
        f"--token={SECRET} --steps 3",
        f"{{'api_key': '{SECRET}', 'n': 3}}",
        f'{{"access_token": "{SECRET}"}}',
        f"X-API-KEY: {SECRET}",
        f"Authorization: Bearer {SECRET}",
        "my key is sk-Zx81-secret-value" + "a" * 20,
        "hf_Zx81secretvalueaaaaaaaaaa",
    ],
)
def test_credentials_are_left_out(text):
    shown = redact(text, {})
    assert HIDDEN in shown
    assert "Zx81" not in shown
    assert redact(shown, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "simulated:openai?key_env=MY_KEY&model=gpt",
        "unknown key: 'alpha'. Did you mean 'beta'?",
        "rollout.turn_tokens must be positive, got -1.",
        "a row needs at least one token; got none.",
        "http://host:8000/retrieve",
        "user@host",
        "runs/train",
    ],
)
def test_other_texts_stay(text):
    assert redact(text, {"PWD": "runs/train", "MY_KEY": "short", "HOME": "http://host"}) == text


def test_values_of_the_environment_are_left_out():
    environment = {"SERPER_API_KEY": "0123456789abcdef", "HF_TOKEN": "qwertyuiop"}
    assert redact("got 0123456789abcdef and qwertyuiop", environment) == f"got {HIDDEN} and {HIDDEN}"
