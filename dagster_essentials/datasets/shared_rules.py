"""Data quality rules that all datasets have, each with a limit of its own and the shares that decided on it."""

from dagster_essentials.ingestion.dataset import QualityRule


def pickups_in_month(limit: float, description: str) -> QualityRule:
    return QualityRule(
        "pickups_in_month",
        "count(*) FILTER (pickup_datetime < $first OR pickup_datetime >= $next)",
        limit,
        f"Pickups outside the file's month. {description}",
    )


def dropoff_after_pickup(limit: float, description: str) -> QualityRule:
    return QualityRule(
        "dropoff_after_pickup",
        "count(*) FILTER (dropoff_datetime < pickup_datetime)",
        limit,
        f"Trips that end before they begin. {description}",
    )


def zones_known(limit: float, description: str, zones: str = "264, 265") -> QualityRule:
    return QualityRule(
        "zones_known",
        f"count(*) FILTER (pickup_zone_id IN ({zones}) OR dropoff_zone_id IN ({zones}))",
        limit,
        f"Trips from or to zone 264 (unknown) or 265 (outside the city). {description}",
    )
