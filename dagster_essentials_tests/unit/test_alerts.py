"""Alerts: what a message says and does not say, and how it is sent, to real servers that may refuse it, hang or be down."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_essentials.operations import alerts
from dagster_essentials.operations.alerts import MAX_CHARACTERS, Alert, deliver, list_briefly, redact
from dagster_essentials.settings import Settings, read_settings
from dagster_essentials_tests.support.dagster_dev import free_port
from dagster_essentials_tests.support.project import ROOT
from dagster_essentials_tests.support.receivers import SECRET, MailServer, Webhook, silent_server
from dagster_essentials_tests.support.source_server import status

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

ALERT = Alert(
    event="run_failed",
    job="trip_update_job",
    title="trip_update_job failed: 2023-05",
    details="2023-05 (https://host/2023-05.parquet): not published in März: 403. Wait for the next 5th.",
    url="http://127.0.0.1:3000/runs/1",
    run_id="1",
    months=["2023-05"],
    reasons={"2023-05": "2023-05 (https://host/2023-05.parquet): not published in März: 403. Wait for the next 5th."},
)
TEXT = f"{ALERT.title}\n\n{ALERT.details}\n\n{ALERT.url}"
NO_ANSWER = "no answer within 8 seconds"


def to_webhook(url: str) -> Settings:
    return read_settings({"TAXI_ALERT_WEBHOOK_URL": url})


def to_mail(url: str, recipients: str = "data@example.org") -> Settings:
    return read_settings({"TAXI_SMTP_URL": url, "TAXI_ALERT_EMAIL": recipients})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Receivers have a second, less than what the tests allow."""
    monkeypatch.setattr(alerts, "SECONDS", 1.0)
    return 3.0


def test_a_webhook_gets_the_message_as_json() -> None:
    with Webhook() as webhook:
        assert deliver(ALERT, to_webhook(webhook.url)) == {"webhook": ""}
    assert webhook.messages == [
        {
            "event": "run_failed",
            "job": "trip_update_job",
            "run_id": "1",
            "months": ["2023-05"],
            "weeks": [],
            "reasons": {"2023-05": ALERT.details},
            "url": "http://127.0.0.1:3000/runs/1",
            "title": "trip_update_job failed: 2023-05",
            "text": TEXT,
        }
    ]


def test_the_recipients_get_the_message_by_e_mail() -> None:
    with MailServer() as server:
        settings = to_mail(f"smtp://127.0.0.1:{server.port}", "data@example.org, team@example.org")
        assert deliver(ALERT, settings) == {"e-mail": ""}
    ((message, recipients),) = server.messages
    assert recipients == ["data@example.org", "team@example.org"]
    assert message["Subject"] == "trip_update_job failed: 2023-05"
    assert (message["From"], message["To"]) == ("data@example.org", "data@example.org, team@example.org")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"]
    assert message.get_content().replace("\r\n", "\n") == TEXT + "\n"


def test_both_get_it_and_one_that_is_down_does_not_keep_the_other_from_getting_it() -> None:
    environ = {"TAXI_ALERT_EMAIL": "data@example.org"}
    with Webhook() as webhook, MailServer() as server:
        environ["TAXI_ALERT_WEBHOOK_URL"] = webhook.url
        environ["TAXI_SMTP_URL"] = f"smtp://127.0.0.1:{server.port}"
        assert deliver(ALERT, read_settings(environ)) == {"webhook": "", "e-mail": ""}
        server.data_answer = "554 no"
        assert deliver(ALERT, read_settings(environ))["webhook"] == ""
        server.data_answer = "250 OK"
        webhook.answer = status(500)
        assert deliver(ALERT, read_settings(environ))["e-mail"] == ""
    assert (len(webhook.messages), len(server.messages)) == (3, 2)


def test_with_no_receiver_nothing_is_sent() -> None:
    assert deliver(ALERT, read_settings({})) == {}


# A webhook that does not accept the message.


@pytest.mark.parametrize("code", [400, 404, 429, 500, 503])
def test_a_webhook_that_refuses_is_named_with_its_code_and_nothing_of_its_text(code: int) -> None:
    with Webhook() as webhook:
        webhook.answer = status(code, SECRET.encode(), Retry_After="600")
        assert deliver(ALERT, to_webhook(webhook.url)) == {
            "webhook": f"it answered {code}. Check TAXI_ALERT_WEBHOOK_URL."
        }
    assert len(webhook.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(code: int) -> None:
    with Webhook() as webhook, Webhook() as elsewhere:
        webhook.answer = status(code, Location=elsewhere.url)
        problem = deliver(ALERT, to_webhook(webhook.url))["webhook"]
    assert problem == (
        f"it answered {code}, a redirect, which is not followed. Set TAXI_ALERT_WEBHOOK_URL to where it leads."
    )
    assert elsewhere.requests == []
    assert len(webhook.requests) == 1


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_webhook_without_an_answer_is_given_up_in_time(behaviour: str, impatient: float) -> None:
    with Webhook() as webhook:
        webhook.answer = getattr(webhook, behaviour)
        began = time.monotonic()
        assert deliver(ALERT, to_webhook(webhook.url)) == {"webhook": NO_ANSWER}
        assert time.monotonic() - began < impatient


def test_a_webhook_that_is_down_is_reported_without_its_address() -> None:
    settings = to_webhook(f"http://user:{SECRET}@127.0.0.1:{free_port()}/{SECRET}?token={SECRET}")
    assert deliver(ALERT, settings) == {"webhook": "the connection failed (Connection refused)"}


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", f"{'x' * 64}.example.org"])
def test_a_webhook_whose_name_cannot_be_resolved_is_reported_without_its_address(host: str) -> None:
    problem = deliver(ALERT, to_webhook(f"https://{host}/{SECRET}"))["webhook"]
    assert problem.startswith("the connection failed (") or problem == NO_ANSWER
    assert SECRET not in problem
    assert host not in problem


def test_the_certificate_of_a_webhook_is_verified(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Webhook(certificate) as webhook:
        problem = deliver(ALERT, to_webhook(webhook.url))["webhook"]
        assert problem.startswith("the certificate could not be verified (self-signed certificate)")
        assert webhook.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_suffix(".crt")))
        assert deliver(ALERT, to_webhook(webhook.url)) == {"webhook": ""}


# A mail server that does not accept the message.


def test_a_server_that_refuses_every_recipient_is_reported() -> None:
    with MailServer() as server:
        server.refused = {"data@example.org"}
        assert deliver(ALERT, to_mail(f"smtp://127.0.0.1:{server.port}")) == {
            "e-mail": "the server refused every recipient (550). Check TAXI_ALERT_EMAIL."
        }
    assert server.messages == []


def test_a_recipient_that_is_refused_does_not_keep_the_others_from_getting_it() -> None:
    with MailServer() as server:
        server.refused = {"data@example.org"}
        settings = to_mail(f"smtp://127.0.0.1:{server.port}", "data@example.org,team@example.org")
        assert deliver(ALERT, settings) == {
            "e-mail": "the server accepted it, but not for data@example.org. Check TAXI_ALERT_EMAIL."
        }
    assert [recipients for _, recipients in server.messages] == [["team@example.org"]]


def test_a_server_that_refuses_the_message_is_reported() -> None:
    with MailServer() as server:
        server.data_answer = f"554 5.7.1 {SECRET}"
        assert deliver(ALERT, to_mail(f"smtp://127.0.0.1:{server.port}")) == {
            "e-mail": "the server refused it (554). Check TAXI_SMTP_URL."
        }


def test_a_server_that_refuses_the_log_in_is_reported_without_the_password_that_it_repeats() -> None:
    with MailServer(auth=True) as server:
        assert deliver(ALERT, to_mail(f"smtp://taxi:wrong-{SECRET}@127.0.0.1:{server.port}")) == {
            "e-mail": "the server refused the log-in (535). Check the user and password in TAXI_SMTP_URL."
        }
    assert {password for password, _ in server.logins} == {f"wrong-{SECRET}"}
    assert server.messages == []


def test_a_server_without_log_in_is_reported() -> None:
    with MailServer() as server:
        assert deliver(ALERT, to_mail(f"smtp://taxi:{SECRET}@127.0.0.1:{server.port}")) == {
            "e-mail": "the server offers no log-in. Remove user and password from TAXI_SMTP_URL, or set another port."
        }


@pytest.mark.parametrize("greeting", [b"", b"220 here\r\n"], ids=["silent", "silent after its greeting"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_that_hangs_is_given_up_in_time(scheme: str, greeting: bytes, impatient: float) -> None:
    with silent_server(greeting) as port:
        began = time.monotonic()
        problem = deliver(ALERT, to_mail(f"{scheme}://127.0.0.1:{port}"))["e-mail"]
        assert time.monotonic() - began < impatient
    # What is not TLS is not waited for.
    assert problem == NO_ANSWER or (scheme == "smtps" and greeting and problem.startswith("the connection failed ("))


def test_a_server_that_is_down_is_reported() -> None:
    problem = deliver(ALERT, to_mail(f"smtp://taxi:{SECRET}@127.0.0.1:{free_port()}"))
    assert problem == {"e-mail": "the connection failed (Connection refused)"}


# Passwords. The address 0.0.0.0 leads to this machine, too, but does not say so.


def test_starttls_is_used_when_the_server_offers_it(certificate: Path) -> None:
    with MailServer(certificate, starttls=True, auth=True, auth_needs_tls=True) as server:
        settings = to_mail(f"smtp://robot%40example.org:{SECRET}@localhost:{server.port}")
        assert deliver(ALERT, settings) == {"e-mail": ""}
    assert server.logins == [(SECRET, True)]
    assert server.messages[0][0]["From"] == "robot@example.org"


def test_smtps_is_encrypted_from_the_start(certificate: Path) -> None:
    with MailServer(certificate, auth=True) as server:
        assert deliver(ALERT, to_mail(f"smtps://taxi:{SECRET}@127.0.0.1:{server.port}")) == {"e-mail": ""}
    assert server.logins == [(SECRET, True)]


def test_within_this_machine_a_password_may_be_sent_unencrypted() -> None:
    with MailServer(auth=True) as server:
        assert deliver(ALERT, to_mail(f"smtp://taxi:{SECRET}@localhost:{server.port}")) == {"e-mail": ""}
    assert server.logins == [(SECRET, False)]


def test_no_password_is_sent_to_another_machine_unencrypted() -> None:
    with MailServer(auth=True) as server:
        problem = deliver(ALERT, to_mail(f"smtp://taxi:{SECRET}@0.0.0.0:{server.port}"))["e-mail"]
    assert problem.startswith("the server offers no encryption (STARTTLS), so that the password was not sent.")
    assert server.logins == []
    assert server.messages == []


def test_a_message_without_log_in_may_be_sent_to_another_machine_unencrypted() -> None:
    with MailServer() as server:
        assert deliver(ALERT, to_mail(f"smtp://0.0.0.0:{server.port}")) == {"e-mail": ""}


@pytest.mark.parametrize("starttls", [True, False])
def test_no_password_is_sent_to_another_machine_whose_certificate_cannot_be_verified(
    certificate: Path, starttls: bool
) -> None:
    with MailServer(certificate, starttls=starttls, auth=True) as server:
        scheme = "smtp" if starttls else "smtps"
        problem = deliver(ALERT, to_mail(f"{scheme}://taxi:{SECRET}@0.0.0.0:{server.port}"))["e-mail"]
    assert problem.startswith("the certificate could not be verified (")
    assert server.logins == []
    assert server.messages == []


# The text.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-05 (https://host/a.parquet): no.", "2023-05 (https://host/a.parquet): no."),
        (f"GET https://user:{SECRET}@host/a?token={SECRET} failed", "GET https://host/a failed"),
        (f"HTTPS://{SECRET}@host/a", "https://host/a"),
        (f"https://user:{SECRET}/x@host/a", "https://host/a"),
        (f"https://host/a?sig={SECRET}&b=1 and http://host/b?{SECRET}", "https://host/a and http://host/b"),
        (f"https://[::1?{SECRET}", "https://…"),
        (f"smtp://user:{SECRET}@host:25 and s3://key:{SECRET}@bucket/a", "smtp://host:25 and s3://bucket/a"),
        (f"'https://host/a?{SECRET}'", "'https://host/a'"),
        ("why? a // b @ c", "why? a // b @ c"),
    ],
)
def test_addresses_in_a_text_lose_their_secrets(text: str, expected: str) -> None:
    assert redact(text, read_settings({})) == expected


def test_neither_message_contains_a_secret() -> None:
    with Webhook() as webhook, MailServer(auth=True) as server:
        settings = read_settings(
            {
                "TAXI_ALERT_WEBHOOK_URL": webhook.url,
                "TAXI_ALERT_EMAIL": "data@example.org",
                "TAXI_SMTP_URL": f"smtp://taxi:{SECRET}@127.0.0.1:{server.port}",
            }
        )
        bad = f"{webhook.url} or https://u:{SECRET}@host/a?t={SECRET}"
        alert = replace(ALERT, title=bad, details=bad, reasons={"2023-05": bad})
        assert deliver(alert, settings) == {"webhook": "", "e-mail": ""}
    assert SECRET not in str(webhook.messages)
    assert SECRET not in server.messages[0][0].as_string()
    assert SECRET not in repr(settings)


def test_a_title_is_one_line_and_a_long_text_ends_in_the_ui() -> None:
    alert = replace(ALERT, title="a job\r\nBcc: x@example.org failed", details="x" * 50_000)
    with Webhook() as webhook, MailServer() as server:
        deliver(alert, to_webhook(webhook.url))
        deliver(alert, to_mail(f"smtp://127.0.0.1:{server.port}"))
    ((message, recipients),) = server.messages
    assert recipients == ["data@example.org"]
    assert message["Subject"] == "a job Bcc: x@example.org failed"
    assert message["Bcc"] is None
    (posted,) = webhook.messages
    assert f"\n{'x' * MAX_CHARACTERS}… The rest is in the UI.\n" in posted["text"]
    assert posted["text"].endswith(ALERT.url)


def test_many_months_are_listed_briefly() -> None:
    months = [f"2023-{number:02}" for number in range(1, 7)]
    assert list_briefly(months[:3]) == "2023-01, 2023-02, 2023-03"
    assert list_briefly(months) == "2023-01, 2023-02, 2023-03 and 3 more"


# The command.


def send_test_message(**environ: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "dagster_essentials.operations.alerts"],
        cwd=ROOT,
        env={**os.environ, **environ},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.stderr == ""
    return result.returncode, result.stdout


def test_the_command_sends_a_test_message_and_prints_who_accepted_it() -> None:
    with Webhook() as webhook:
        assert send_test_message(TAXI_ALERT_WEBHOOK_URL=webhook.url) == (0, "webhook: accepted\n")
        webhook.answer = status(404)
        failed = send_test_message(TAXI_ALERT_WEBHOOK_URL=webhook.url)
    assert failed == (1, "webhook: it answered 404. Check TAXI_ALERT_WEBHOOK_URL.\n")
    assert webhook.messages[0]["event"] == "test"
    assert send_test_message() == (
        1,
        "No receiver is configured. Set TAXI_ALERT_WEBHOOK_URL, or TAXI_ALERT_EMAIL and TAXI_SMTP_URL.\n",
    )
