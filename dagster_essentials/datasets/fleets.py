"""The TLC's other fleets: the columns of `fleet_trips`, which of them each fleet has, and since when it is published.

Green taxis have a meter, as yellow ones do. For-hire vehicles (fhv) are dispatched by a base. Those of Uber, Lyft, Via and Juno
are high-volume for-hire vehicles (fhvhv) since 2019-02, and among fhv before.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

from dagster_essentials.datasets.codes import COMPANIES, RATES, describe
from dagster_essentials.datasets.fleet_rules import FHV_RULES, FHVHV_RULES, GREEN_RULES
from dagster_essentials.datasets.publisher import TLC
from dagster_essentials.ingestion.dataset import Column, Dataset, Layout

# In all fleets; in the order of the table. What a fleet calls a column, and whether each of its files has it, follows below.
_SHARED = {
    "fleet": ("VARCHAR", "green, fhv or fhvhv"),
    "partition_date": ("VARCHAR", "Month of the file, YYYY-MM"),
    "pickup_datetime": ("TIMESTAMP", "Start of the trip, New York local time"),
    "dropoff_datetime": ("TIMESTAMP", "End of the trip, New York local time; not a real time for fhv before mid-2017"),
    "pickup_zone_id": (
        "INTEGER",
        "Zone of the pickup; 264 unknown, 265 outside the city; mostly null for fhv since 2020-10",
    ),
    "dropoff_zone_id": ("INTEGER", "Zone of the drop-off; 264 unknown, 265 outside the city"),
}
_TAXIS = {
    "vendor_id": ("INTEGER", "green: recorded by 1 Creative Mobile, 2 Curb, 6 Myle"),
    "rate_code_id": ("DOUBLE", f"green: {describe(RATES)}"),
    "payment_type": (
        "INTEGER",
        "green: 1 card, 2 cash, 3 no charge, 4 dispute, 5 unknown, 6 voided; null where yellow trips have 0",
    ),
    "trip_type": ("INTEGER", "green: 1 hailed in the street, 2 dispatched"),
    "passenger_count": ("DOUBLE", "green: passengers, as the driver entered them"),
    "trip_distance": ("DOUBLE", "green: miles, by the taximeter"),
    "fare_amount": ("DOUBLE", "green: US dollars, by time and distance"),
    "extra": ("DOUBLE", "green: US dollars, rush hour and overnight charges and others"),
    "mta_tax": ("DOUBLE", "green: US dollars, tax of the Metropolitan Transportation Authority"),
    "tip_amount": ("DOUBLE", "green: US dollars, card tips only"),
    "tolls_amount": ("DOUBLE", "green: US dollars, all tolls of the trip"),
    "ehail_fee": ("DOUBLE", "green: US dollars; without values since 2019-09"),
    "improvement_surcharge": ("DOUBLE", "green: US dollars, at the flag drop"),
    "total_amount": ("DOUBLE", "green: US dollars charged in all, without cash tips"),
    "store_and_fwd_flag": ("VARCHAR", "green: Y if the record was held in the vehicle before it was sent, else N"),
    "request_source": ("VARCHAR", "green: how the trip was requested, a code; since 2026-06"),
}
_CONGESTION = {
    "congestion_surcharge": ("DOUBLE", "green, fhvhv: US dollars, state surcharge; since 2019"),
    "cbd_congestion_fee": ("DOUBLE", "green, fhvhv: US dollars, congestion zone; since 2025"),
}
_BASES = {
    "dispatching_base_num": ("VARCHAR", "fhv, fhvhv: licence number of the base that dispatched the trip"),
    "affiliated_base_number": ("VARCHAR", "fhv: licence number of the base that the vehicle belongs to"),
    "sr_flag": ("INTEGER", "fhv: 1 for a shared ride"),
}
_HIGH_VOLUME = {
    "hvfhs_license_num": ("VARCHAR", f"fhvhv: {describe(COMPANIES)}"),
    "originating_base_num": ("VARCHAR", "fhvhv: licence number of the base that received the request; null for Lyft"),
    "request_datetime": (
        "TIMESTAMP",
        "fhvhv: time of the request; after the pickup for some trips that were booked ahead",
    ),
    "on_scene_datetime": ("TIMESTAMP", "fhvhv: time of the driver's arrival; null for Lyft in some months"),
    "trip_miles": ("DOUBLE", "fhvhv: miles"),
    "trip_time": ("INTEGER", "fhvhv: seconds, as the company measured them"),
    "base_passenger_fare": ("DOUBLE", "fhvhv: US dollars, before tolls, tips, taxes and fees"),
    "tolls": ("DOUBLE", "fhvhv: US dollars, all tolls of the trip"),
    "bcf": ("DOUBLE", "fhvhv: US dollars, for the Black Car Fund"),
    "sales_tax": ("DOUBLE", "fhvhv: US dollars, sales tax of New York State"),
    "airport_fee": ("DOUBLE", "fhvhv: US dollars, at LaGuardia, JFK and Newark"),
    "tips": ("DOUBLE", "fhvhv: US dollars, tips"),
    "driver_pay": ("DOUBLE", "fhvhv: US dollars, what the driver got, without tolls and tips"),
    "shared_request_flag": ("VARCHAR", "fhvhv: Y if the passenger agreed to a shared ride, else N"),
    "shared_match_flag": ("VARCHAR", "fhvhv: Y if the ride was shared, else N"),
    "access_a_ride_flag": ("VARCHAR", "fhvhv: Y if the trip was on behalf of the MTA, else N or a space"),
    "wav_request_flag": ("VARCHAR", "fhvhv: Y if a wheelchair-accessible vehicle was requested, else N"),
    "wav_match_flag": (
        "VARCHAR",
        "fhvhv: Y if it was in a wheelchair-accessible vehicle, else N; null in 2019-02 and 2019-03",
    ),
}
FLEET_COLUMNS = [
    Column(name, type_, None, False, description)
    for name, (type_, description) in {**_SHARED, **_TAXIS, **_CONGESTION, **_BASES, **_HIGH_VOLUME}.items()
]
"""Of the table `fleet_trips`. A fleet has some of them; the others are null in its trips."""

_OPTIONAL = frozenset(
    {
        *("improvement_surcharge", "congestion_surcharge", "cbd_congestion_fee", "airport_fee", "request_source"),
        *("ehail_fee", "sr_flag"),
    }
)
"""Fees and others that were added over the years, and two columns that have had no values since 2019. All others are in every
file, if only as null-typed: by them, the file of another fleet is told apart."""

_GREEN = {
    "pickup_datetime": "lpep_pickup_datetime",
    "dropoff_datetime": "lpep_dropoff_datetime",
    "pickup_zone_id": "PULocationID",
    "dropoff_zone_id": "DOLocationID",
    "vendor_id": "VendorID",
    "rate_code_id": "RatecodeID",
    **{name: name for name in (*_TAXIS, *_CONGESTION) if name not in ("vendor_id", "rate_code_id")},
}
_FHV = {
    "pickup_datetime": "pickup_datetime",
    "dropoff_datetime": "dropOff_datetime",
    "pickup_zone_id": "PUlocationID",
    "dropoff_zone_id": "DOlocationID",
    "dispatching_base_num": "dispatching_base_num",
    "affiliated_base_number": "Affiliated_base_number",
    "sr_flag": "SR_Flag",
}
_FHVHV = {
    "pickup_datetime": "pickup_datetime",
    "dropoff_datetime": "dropoff_datetime",
    "pickup_zone_id": "PULocationID",
    "dropoff_zone_id": "DOLocationID",
    "dispatching_base_num": "dispatching_base_num",
    **{name: name for name in (*_CONGESTION, *_HIGH_VOLUME)},
}


_TIMES_AND_ZONES = ("pickup_datetime", "dropoff_datetime", "pickup_zone_id", "dropoff_zone_id")


def _columns(sources: Mapping[str, str], complete: Collection[str]) -> list[Column]:
    """The columns of a fleet. Those that are `complete` have a value in every row of the months that are known."""
    return [
        replace(
            column,
            source=sources[column.name],
            required=column.name not in _OPTIONAL,
            max_missing=0.01 if column.name in complete else None,
        )
        if column.name in sources
        else column
        for column in FLEET_COLUMNS
    ]


def _layouts(mark: str, sources: Mapping[str, str]) -> list[Layout]:
    """Names never changed within a fleet; types did, which `ingestion/column_mapping.py` decides on."""
    return [Layout("all years", "9999-12", mark, sources)]


_fleet = partial(
    Dataset,
    **TLC,
    table="fleet_trips",
    comment="Trips of green taxis and for-hire vehicles of all months that are loaded: one row per trip, as published, no trip "
    "dropped; columns that a fleet does not have are null",
    file_asset="fleet_trips_file",
    table_asset="fleet_trips",
    core_columns=len(_SHARED),
    time="pickup_datetime",
)

GREEN = _fleet(
    name="green",
    title="green taxi trips",
    first_month="2014-01",
    months_to_publication=2,
    # That of the yellow taxis: their months come out at about the same time.
    longest_delay_days=83,
    columns=_columns(_GREEN, (*_TIMES_AND_ZONES, "trip_distance", "fare_amount", "total_amount")),
    layouts=_layouts("lpep_pickup_datetime", _GREEN),
    rules=GREEN_RULES,
    constants={"fleet": "green"},
    total_amount="total_amount",
    trip_distance="trip_distance",
)

FHV = _fleet(
    name="fhv",
    title="for-hire vehicle trips (fhv)",
    first_month="2015-01",
    # Bases may report a month until the end of the next one: fhv was a month behind the others each time they were looked up.
    months_to_publication=3,
    months_behind=1,
    # A month more than the others; its own longest delay is not known.
    longest_delay_days=83 + 31,
    columns=_columns(_FHV, ("pickup_datetime", "dispatching_base_num")),
    layouts=_layouts("Affiliated_base_number", _FHV),
    rules=FHV_RULES,
    constants={"fleet": "fhv"},
)

FHVHV = _fleet(
    name="fhvhv",
    title="high-volume for-hire vehicle trips (fhvhv)",
    first_month="2019-02",
    months_to_publication=2,
    longest_delay_days=83,
    before_first_month="Until 2019-01 the trips of Uber, Lyft, Via and Juno are in fhv.",
    columns=_columns(
        _FHVHV, (*_TIMES_AND_ZONES, "hvfhs_license_num", "trip_miles", "trip_time", "base_passenger_fare")
    ),
    layouts=_layouts("hvfhs_license_num", _FHVHV),
    rules=FHVHV_RULES,
    constants={"fleet": "fhvhv"},
    # The files have no total. A part is missing where there was no such fee.
    total_amount="base_passenger_fare + "
    + " + ".join(
        f"coalesce({part}, 0)"
        for part in ("tolls", "bcf", "sales_tax", "congestion_surcharge", "airport_fee", "cbd_congestion_fee", "tips")
    ),
    trip_distance="trip_miles",
)

FLEETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in (GREEN, FHV, FHVHV)}
"""The datasets of `fleet_trips`, by name."""
