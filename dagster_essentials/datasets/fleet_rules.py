"""The data quality rules of the TLC's other fleets. Shares without a year are those of all months from 2019 to 2026."""

from collections.abc import Sequence

from dagster_essentials.datasets.shared_rules import dropoff_after_pickup, pickups_in_month, zones_known
from dagster_essentials.ingestion.dataset import QualityRule

GREEN_RULES: Sequence[QualityRule] = (
    pickups_in_month(0.01, "2 to 26 in each of six months from 2022 to 2025; warns above 1 %."),
    dropoff_after_pickup(0.005, "0.2 % end when they begin or before; warns above 0.5 %."),
    zones_known(0.05, "1.0 to 1.1 % in three months of 2023 and 2024; warns above 5 %."),
    QualityRule(
        "no_negative_amounts",
        "count(*) FILTER (total_amount < 0)",
        0.01,
        "Trips with a negative total: refunds and corrections. 0.3 %; warns above 1 %.",
    ),
    QualityRule(
        "no_zero_distances",
        "count(*) FILTER (trip_distance = 0)",
        0.10,
        "Trips over no distance. 3.4 %, and 4.4 to 5.1 % in 2023 and 2024; warns above 10 %.",
    ),
    QualityRule(
        "passengers_known",
        "count(*) FILTER (passenger_count IS NULL AND rate_code_id IS NULL AND store_and_fwd_flag IS NULL)",
        0.40,
        "Trips without passengers, rate code, flag, payment and trip type. They are real trips. 15 %; warns above 40 %.",
    ),
)

FHV_RULES: Sequence[QualityRule] = (
    pickups_in_month(0.01, "None in 154 million; warns above 1 %."),
    dropoff_after_pickup(
        0.01,
        "Practically all of 2015 and 2016, and 38 % of 2017: until mid-2017 drop-offs are not real times, so a trip has no "
        "duration. Almost none since 2018; warns above 1 %.",
    ),
    zones_known(0.40, "Zone 0 counts as unknown. 17 %; warns above 40 %.", "0, 264, 265"),
    QualityRule(
        "pickup_zone_present",
        "count(*) FILTER (pickup_zone_id IS NULL)",
        0.95,
        "Trips without a pickup zone. 14 to 30 % in 2015 to 2018, under 1 % just before 2020-10, 80 to 85 % since; warns above "
        "95 %.",
    ),
    QualityRule(
        "dropoff_zone_present",
        "count(*) FILTER (dropoff_zone_id IS NULL)",
        0.30,
        "Trips without a drop-off zone. 98 % in 2015 and 2016, 44 % in 2017, 8 % in 2018, 15 to 18 % since 2021; warns above "
        "30 %.",
    ),
)

FHVHV_RULES: Sequence[QualityRule] = (
    pickups_in_month(0.01, "None in 1.6 billion; warns above 1 %."),
    dropoff_after_pickup(
        0.002,
        "0.004 % end when they begin or before, in the night in which the clocks go back: 8,000 to 12,000 a year; warns above "
        "0.2 %.",
    ),
    zones_known(0.08, "3.9 %, almost all of them to there; warns above 8 %."),
    QualityRule(
        "no_negative_amounts",
        "count(*) FILTER (base_passenger_fare < 0)",
        0.01,
        "Trips with a negative fare. 0.08 %; warns above 1 %.",
    ),
    QualityRule(
        "no_zero_distances",
        "count(*) FILTER (trip_miles = 0)",
        0.01,
        "Trips over no distance. 0.05 %; warns above 1 %.",
    ),
    QualityRule(
        "duration_as_measured",
        "count(*) FILTER (abs(trip_time - date_diff('second', pickup_datetime, dropoff_datetime)) > 120)",
        0.05,
        "Trips whose seconds differ by over two minutes from their times. 1.6 % in 2026-07; warns above 5 %.",
    ),
)
