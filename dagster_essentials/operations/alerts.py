"""Messages to people who do not watch the UI: what one says, and how it is sent to a webhook, by e-mail, or both.

For which runs and months is decided in `failed_runs.py` and `due_partitions.py`.
"""

import re
import smtplib
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from functools import partial
from ipaddress import ip_address
from typing import Any

import requests

from dagster_essentials import settings
from dagster_essentials.ingestion.http_requests import redact_url, root_cause
from dagster_essentials.settings import Settings, SmtpServer

SECONDS = 8.0
"""The time a receiver has. A tick of a sensor is aborted after 60 seconds, and would be repeated with all its
messages; it has up to five failed runs, and may wait for a retry before (`failed_runs.py`)."""
MAX_CHARACTERS = 20_000
"""Of a message's text: twenty times the failure text of a run over a year. Chat services accept about 40,000."""
NO_RECEIVER = "No receiver is configured. Set TAXI_ALERT_WEBHOOK_URL, or TAXI_ALERT_EMAIL and TAXI_SMTP_URL."

_NO_ANSWER = f"no answer within {SECONDS:.0f} seconds"


@dataclass(frozen=True)
class Alert:
    """A message.

    Attributes:
        event: what happened: ``run_failed``, ``months_late``, ``checks_not_passed`` or ``test``.
        job: the job that it happened to.
        title: the subject of the e-mail and the first line of the text.
        details: the rest of the text, in complete sentences.
        url: the page of the UI that shows it.
        run_id: the run that failed.
        months: which months it is about (``YYYY-MM``).
        weeks: which weeks it is about: their Sundays, ``YYYY-MM-DD``.
        reasons: why, by month, week or failed step.
    """

    event: str
    job: str
    title: str
    details: str
    url: str
    run_id: str | None = None
    months: Sequence[str] = ()
    weeks: Sequence[str] = ()
    reasons: Mapping[str, str] | None = None

    def payload(self, settings: Settings) -> dict[str, Any]:
        """The JSON for a webhook, without any secret. Chat services show its ``text``."""
        title, details = redact(" ".join(self.title.split()), settings), redact(self.details, settings)
        if len(details) > MAX_CHARACTERS:
            details = f"{details[:MAX_CHARACTERS]}… The rest is in the UI."
        return {
            "event": self.event,
            "job": self.job,
            "run_id": self.run_id,
            "months": list(self.months),
            "weeks": list(self.weeks),
            "reasons": {key: redact(reason, settings) for key, reason in (self.reasons or {}).items()},
            "url": self.url,
            "title": title,
            "text": f"{title}\n\n{details}\n\n{self.url}",
        }


def list_briefly(labels: Sequence[str]) -> str:
    """The first three `labels`, and how many more there are."""
    more = len(labels) - 3
    return ", ".join(labels[:3]) + (f" and {more} more" if more > 0 else "")


def redact(text: str, settings: Settings) -> str:
    """`text` without the webhook's address, and without user name, password and query of any other address in it."""
    if settings.alert_webhook_url is not None:
        text = text.replace(settings.alert_webhook_url, "…")
    text = re.sub(r"//\S*@", "//", text)
    return re.sub(r"https?://[^\s'\"<>]+", lambda address: _redacted(address[0]), text, flags=re.IGNORECASE)


def _redacted(address: str) -> str:
    try:
        return redact_url(address)
    except ValueError:
        return f"{address.partition(':')[0]}://…"


def deliver(alert: Alert, settings: Settings) -> dict[str, str]:
    """Send `alert` to every receiver in the settings, and wait for them at most `SECONDS`.

    Returns:
        For each receiver, ``webhook`` and ``e-mail``, why it may not have got the message; empty if it did. These texts
        contain neither addresses nor passwords.
    """
    payload = alert.payload(settings)
    sends: dict[str, Callable[[], None]] = {}
    if settings.alert_webhook_url is not None:
        sends["webhook"] = partial(_post, settings.alert_webhook_url, payload)
    if settings.smtp is not None:
        sends["e-mail"] = partial(_mail, settings.smtp, settings.alert_recipients, payload)
    problems: dict[str, str] = {}
    # Time-outs of sockets do not limit the lookup of a name, nor a server that sends a byte now and then. As daemons, the
    # threads do not keep the process from ending.
    threads = [threading.Thread(target=_attempt, args=(*send, problems), daemon=True) for send in sends.items()]
    deadline = time.monotonic() + SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: problems.get(name, _NO_ANSWER) for name in sends}


class _NotAcceptedError(Exception):
    """A receiver did not accept the message. The text says what to do, and contains no secret."""


def _attempt(name: str, send: Callable[[], None], problems: dict[str, str]) -> None:
    try:
        send()
    except Exception as error:
        # Of whatever kind: it must not stop the sensor, and its own text may contain the address or the password.
        problems[name] = _problem(error)
    else:
        problems[name] = ""


def _post(url: str, payload: Mapping[str, Any]) -> None:
    # A redirect would be followed with a GET, or the message would go to where nobody has decided to send it.
    with requests.post(url, json=payload, timeout=SECONDS, allow_redirects=False, stream=True) as response:
        status = response.status_code
    if 300 <= status < 400:
        raise _NotAcceptedError(
            f"it answered {status}, a redirect, which is not followed. Set TAXI_ALERT_WEBHOOK_URL to where it leads."
        )
    if not 200 <= status < 300:
        raise _NotAcceptedError(f"it answered {status}. Check TAXI_ALERT_WEBHOOK_URL.")


def _mail(smtp: SmtpServer, recipients: Sequence[str], payload: Mapping[str, Any]) -> None:
    message = EmailMessage()
    message["Subject"] = payload["title"]
    message["From"] = sender = smtp.user if smtp.user and "@" in smtp.user else recipients[0]
    message["To"] = ", ".join(recipients)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers that somebody is on holiday.
    message.set_content(payload["text"], cte="quoted-printable")
    context = ssl.create_default_context()
    if _is_this_machine(smtp.host):
        # Nobody is on the way, and hardly any mail server has a certificate for "localhost".
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    server: smtplib.SMTP
    if smtp.tls:
        server = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=SECONDS, context=context)
    else:
        server = smtplib.SMTP(smtp.host, smtp.port, timeout=SECONDS)
    try:
        refused = _hand_in(server, smtp, message, context)
        with suppress(OSError):  # The message has been accepted already.
            server.quit()
    finally:
        server.close()
    if refused:
        raise _NotAcceptedError(f"the server accepted it, but not for {', '.join(refused)}. Check TAXI_ALERT_EMAIL.")


def _hand_in(server: smtplib.SMTP, smtp: SmtpServer, message: EmailMessage, context: ssl.SSLContext) -> Sequence[str]:
    """Log in and hand in `message`; returns the recipients that the server refused."""
    encrypted = smtp.tls
    server.ehlo()
    if not encrypted and server.has_extn("starttls"):
        server.starttls(context=context)
        encrypted = True
    if smtp.user and smtp.password:
        if not encrypted and not _is_this_machine(smtp.host):
            raise _NotAcceptedError(
                "the server offers no encryption (STARTTLS), so that the password was not sent. Set TAXI_SMTP_URL to a port "
                "that does, or to smtps://."
            )
        server.login(smtp.user, smtp.password)
    return list(server.send_message(message))


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problem(error: Exception) -> str:
    """The reason why the message was not accepted. Of the server's answer only the code: its text might repeat the message."""
    cause = root_cause(error)
    match error:
        case _NotAcceptedError():
            return str(error)
        case smtplib.SMTPAuthenticationError():
            return f"the server refused the log-in ({error.smtp_code}). Check the user and password in TAXI_SMTP_URL."
        case smtplib.SMTPRecipientsRefused():
            codes = ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
            return f"the server refused every recipient ({codes}). Check TAXI_ALERT_EMAIL."
        case smtplib.SMTPNotSupportedError():
            return "the server offers no log-in. Remove user and password from TAXI_SMTP_URL, or set another port."
        case smtplib.SMTPResponseException():
            return f"the server refused it ({error.smtp_code}). Check TAXI_SMTP_URL."
    if isinstance(cause, TimeoutError) or isinstance(error, requests.Timeout):
        return _NO_ANSWER
    if isinstance(cause, smtplib.SMTPServerDisconnected):
        return "the server closed the connection. Check the port in TAXI_SMTP_URL."
    if isinstance(cause, ssl.SSLCertVerificationError):
        # Without the names after the comma.
        why = cause.verify_message.partition(",")[0]
        return f"the certificate could not be verified ({why}). Check the address and the clock of this machine."
    return f"the connection failed ({(isinstance(cause, OSError) and cause.strerror) or type(cause).__name__})"


def main() -> int:
    """Send a test message to the receivers in the settings, and print whether they accepted it."""
    alert = Alert(
        event="test",
        job="trip_update_job",
        title="Test of the alerts",
        details="Failed runs, late months and months that do not pass a check will be reported here.",
        url=settings.SETTINGS.ui_url,
    )
    problems = deliver(alert, settings.SETTINGS)
    for name, problem in problems.items():
        print(f"{name}: {problem or 'accepted'}")
    if not problems:
        print(NO_RECEIVER)
    return 0 if problems and not any(problems.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
