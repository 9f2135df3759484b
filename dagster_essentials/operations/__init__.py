"""Alerts, reconciliation, launchers, maintenance: for an installation that runs unattended. The lesson needs none of it."""
